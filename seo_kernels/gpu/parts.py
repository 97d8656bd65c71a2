"""The parts of the proof on a GPU: a command each, with what it needs and how long it may take."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import seo_kernels

ROOT = Path(seo_kernels.__file__).resolve().parent.parent  # of the sources, or site-packages
SANITIZER = "compute-sanitizer"
SANITIZER_FAILED = "86"  # its exit status where it found something
WORKERS = 8  # of the test suite, where pytest-xdist is
TIER = "SEO_KERNELS_TIER"  # the variable that asks for kernels on tensor cores
TIERS = {"sm80": 80, "sm90a": 90}  # from which compute capability on; those with an "a" on that alone


@dataclass(frozen=True)
class Part:
    """``command(output folder)``; ``missing()`` says what keeps it from running here, "" if nothing does.

    ``tier``: the kernels that are asked for, "" for those that serve by default.
    """

    name: str
    what: str
    command: Callable[[Path], list[str]]
    missing: Callable[[], str]
    seconds: int  # it is ended after
    tier: str = ""

    def environment(self) -> dict[str, str]:
        """Of the command's process."""
        return {**os.environ, TIER: self.tier} if self.tier else dict(os.environ)


def parts() -> tuple[Part, ...]:
    """In the order in which they run."""
    return (
        Part("check", "gradients of every op", _check, lambda: _lacks("typer", "rich"), 80),
        Part("tests", "the test suite with device cuda", _tests, _lacks_tests, 180),
        *(part for tier in TIERS for part in _of_tier(tier)),
        Part("bench", "figures beside the peers", _bench, lambda: _lacks("typer", "rich"), 120),
        *(
            Part(tool, f"every kernel once under {SANITIZER}'s {tool}", _under(tool), _lacks_sanitizer, 50)
            for tool in ("memcheck", "racecheck")
        ),
    )


def _of_tier(tier: str) -> tuple[Part, ...]:
    def op_tests(output: Path) -> list[str]:
        return _pytest("tests/ops", output / f"tests-{tier}.xml")

    def bench(output: Path) -> list[str]:
        cases = [option for name in cases_of_tiers() for option in ("--case", name)]
        return [*_bench(output, f"bench-{tier}"), *cases]

    def missing(*modules: str) -> str:
        return _lacks_capability(tier) or _lacks(*modules)

    return (
        Part(
            f"tests-{tier}",
            f"the ops' tests on {tier}",
            op_tests,
            lambda: missing() or _lacks_tests(),
            60,
            tier,
        ),
        Part(f"bench-{tier}", f"figures of {tier}", bench, lambda: missing("typer", "rich"), 60, tier),
    )


def cases_of_tiers() -> list[str]:
    """Names of the cases with products of 16-bit matrices."""
    from seo_kernels.benchmark.gpu_cases import gpu_cases

    return [case.name for case in gpu_cases() if case.copy_floor is None and case.problem.dtype.itemsize == 2]


def _lacks_capability(tier: str) -> str:
    major, minor = torch.cuda.get_device_capability()
    has, needed = 10 * major + minor, TIERS[tier]
    if has == needed or (has > needed and not tier.endswith("a")):
        return ""
    return f"the GPU has compute capability {major}.{minor}, {tier} needs {needed / 10:.1f}"


def _check(output: Path) -> list[str]:
    return [*_module("seo_kernels"), "check", "--device", "cuda", "--json", str(output / "check.json")]


def _tests(output: Path) -> list[str]:
    return _pytest("tests", output / "tests.xml")


def _pytest(folder: str, report: Path) -> list[str]:
    workers = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    options = ["--device", "cuda", "-q", "-p", "no:cacheprovider", *workers]
    return [*_module("pytest"), str(ROOT / folder), *options, "--junitxml", str(report)]


def _under(tool: str) -> Callable[[Path], list[str]]:
    options = ["--tool", tool, "--error-exitcode", SANITIZER_FAILED]
    return lambda output: [SANITIZER, *options, *_module("seo_kernels.gpu.every_kernel")]


def _bench(output: Path, name: str = "bench") -> list[str]:
    files = ("--json", str(output / f"{name}.json"), "--csv", str(output / f"{name}.csv"))
    return [*_module("seo_kernels"), "bench", "--device", "cuda", *files]


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def _lacks(*modules: str) -> str:
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed" if absent else ""


def _lacks_tests() -> str:
    if not (ROOT / "tests" / "conftest.py").exists():
        return f"no tests beside {ROOT / 'seo_kernels'}"
    return _lacks("pytest", "hypothesis", "pytest_timeout")


def _lacks_sanitizer() -> str:
    return "" if shutil.which(SANITIZER) else f"no {SANITIZER} on PATH"
