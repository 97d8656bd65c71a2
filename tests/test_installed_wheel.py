"""A wheel, installed into a fresh environment: every row of the documented API holds there too."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import seo_kernels as sk

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = sorted(path.stem for path in (ROOT / "python").glob("*.py"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first build compiles everything

MODULE = """
import torch
from torch import nn

def mine():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(5, 4)
"""


@dataclass(frozen=True)
class Installed:
    """An environment that sees this one's packages, but seo_kernels as its wheel has it."""

    python: Path
    packages: Path
    wheel: Path

    def run(self, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python outside the checkout."""
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"DOCUMENTED_MODULES_IN": str(self.packages), "OMP_NUM_THREADS": "1"}
        command = [str(self.python), *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if not sk.info()["native"]:
        pytest.skip(f"no native libraries: {sk.info()['reason']}")
    folder = tmp_path_factory.mktemp("wheel")
    # in the checkout, where the objects are that `make build` compiled
    variables = {"SEO_KERNELS_WHEEL": "1", "SEO_KERNELS_REQUIRE_NATIVE": "1", "SEO_KERNELS_CUDA": "0"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *options, str(ROOT)], env={**os.environ, **variables}, check=True)
    (wheel,) = folder.glob("*.whl")

    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    packages = Path(paths["purelib"])
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch, pytest
    python = environment / "bin" / "python"
    options = ["--no-deps", "--no-index", "--ignore-installed", str(wheel)]
    subprocess.run([*pip, "--python", str(python), "install", *options], check=True)
    yield Installed(python, packages, wheel)
    shutil.rmtree(environment)


def test_what_is_in_the_wheel(installed: Installed) -> None:
    assert installed.wheel.name.startswith(f"seo_kernels-{sk.__version__}-py3-none-")
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert [name.removesuffix(".py") for name in names if re.fullmatch(r"\w+\.py", name)] == DOCUMENTED
    assert len(DOCUMENTED) == 11
    libraries = {Path(name).name for name in names if name.endswith(".so")}
    assert "libseo_kernels_cpu.so" in libraries
    assert "libseo_kernels_cpu_portable.so" in libraries
    assert {"seo_kernels/py.typed", "seo_kernels/_C.pyi"} <= set(names)
    others = {name.split("/")[0] for name in names if "/" in name}
    assert others == {"seo_kernels", f"seo_kernels-{sk.__version__}.dist-info"}


def test_the_kernels_are_native(installed: Installed, tmp_path: Path) -> None:
    program = "import seo_kernels as sk; print(sk.__file__, sk.info()['native'])"
    process = installed.run("-c", program, folder=tmp_path)
    place, native = process.stdout.split()
    assert Path(place).is_relative_to(installed.packages)
    assert native == "True"


def test_every_row_of_the_documented_api(installed: Installed, tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "tests" / "documented", tmp_path / "documented"
    )  # away from the checkout's settings
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-c", os.devnull, "--rootdir", "."]
    process = installed.run("-m", "pytest", *options, "documented", folder=tmp_path)
    assert process.returncode == 0, process.stdout[-5000:] + process.stderr[-2000:]
    counts = re.search(r"^(\d+) passed(?:, (?!\d+ skipped).*)? in ", process.stdout, re.MULTILINE)
    assert counts is not None, process.stdout[-1000:]  # nothing was skipped
    files = list((tmp_path / "documented").glob("test_*.py"))
    assert len(files) == len(DOCUMENTED)  # with the names' own, and one for the two that share a section
    assert int(counts[1]) > 150


def test_the_command(installed: Installed, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODULE)
    process = installed.run("-m", "seo_kernels", "check", "models:mine", folder=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "none failed" in process.stdout
