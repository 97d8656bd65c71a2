"""The parts of the proof on a GPU: a command each, with what it needs and how long it may take."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import seo_kernels

ROOT = Path(seo_kernels.__file__).resolve().parent.parent  # of the sources, or site-packages
SANITIZER = "compute-sanitizer"
SANITIZER_FAILED = "86"  # its exit status where it found something
WORKERS = 8  # of the test suite, where pytest-xdist is


@dataclass(frozen=True)
class Part:
    """``command(output folder)``; ``missing()`` says what keeps it from running here, "" if nothing does."""

    name: str
    what: str
    command: Callable[[Path], list[str]]
    missing: Callable[[], str]
    seconds: int  # it is ended after


def parts() -> tuple[Part, ...]:
    """In the order in which they run."""
    return (
        Part("check", "gradients of every op", _check, lambda: _lacks("typer", "rich"), 120),
        Part("tests", "the test suite with device cuda", _tests, _lacks_tests, 200),
        *(
            Part(tool, f"every kernel once under {SANITIZER}'s {tool}", _under(tool), _lacks_sanitizer, 60)
            for tool in ("memcheck", "racecheck")
        ),
        Part("bench", "figures beside the peers", _bench, lambda: _lacks("typer", "rich"), 160),
    )


def _check(output: Path) -> list[str]:
    return [*_module("seo_kernels"), "check", "--device", "cuda", "--json", str(output / "check.json")]


def _tests(output: Path) -> list[str]:
    workers = ["-n", str(WORKERS)] if importlib.util.find_spec("xdist") else []
    options = ["--device", "cuda", "-q", "-p", "no:cacheprovider", *workers]
    return [*_module("pytest"), str(ROOT / "tests"), *options, "--junitxml", str(output / "tests.xml")]


def _under(tool: str) -> Callable[[Path], list[str]]:
    options = ["--tool", tool, "--error-exitcode", SANITIZER_FAILED]
    return lambda output: [SANITIZER, *options, *_module("seo_kernels.gpu.every_kernel")]


def _bench(output: Path) -> list[str]:
    files = ("--json", str(output / "bench.json"), "--csv", str(output / "bench.csv"))
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
