"""What is built, what it links to, and what happens where it can't be built."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import seo_kernels as sk

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = Path(sk.__file__).parent / "lib"
# mangled names of c10:: and at::, Python's C API
FORBIDDEN_IN_TENSOR_LIBRARY = re.compile(r"N[KVrRO]*(3c10|2at)[0-9E]|^_?Py[A-Z_]")
FORBIDDEN_IN_KERNELS = re.compile(r"torch|^_?Py[A-Z_]|N[KVrRO]*(3c10|2at)[0-9E]")


@pytest.fixture
def libraries() -> list[Path]:
    """The shared objects that were built."""
    if not sk.info()["native"]:
        assert os.environ.get("SEO_KERNELS_REQUIRE_NATIVE") != "1", sk.info()["reason"]
        pytest.skip(f"no native libraries: {sk.info()['reason']}")
    return sorted(LIBRARIES.glob("*.so"))


def undefined_symbols(library: Path) -> list[str]:
    command = ["nm", "--dynamic", "--undefined-only", "--format=posix", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listing.splitlines()]


def needed_libraries(library: Path) -> set[str]:
    command = ["readelf", "--dynamic", "--wide", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+?)\.so", listing))


def test_tensor_library_uses_the_stable_abi_only(libraries: list[Path]) -> None:
    (library,) = (path for path in libraries if path.stem == "libseo_kernels_cpu")
    symbols = undefined_symbols(library)
    assert "aoti_torch_library_init_def" in symbols  # else this test looks at nothing
    assert [name for name in symbols if FORBIDDEN_IN_TENSOR_LIBRARY.search(name)] == []
    system = {"libstdc++", "libgcc_s", "libm", "libc", "libdl", "libpthread", "ld-linux-x86-64"}
    assert needed_libraries(library) - system == {"libtorch_cpu"}


def test_kernel_libraries_know_no_torch(libraries: list[Path]) -> None:
    kernels = [path for path in libraries if path.stem.startswith("libseo_kernels_cpu_")]
    assert [path.stem.removeprefix("libseo_kernels_cpu_") for path in kernels] == sk.info()["cpu_libraries"]
    assert "portable" in sk.info()["cpu_libraries"]
    for library in kernels:
        assert [name for name in undefined_symbols(library) if FORBIDDEN_IN_KERNELS.search(name)] == []
        assert not [name for name in needed_libraries(library) if "torch" in name or "python" in name]


@pytest.mark.parametrize(
    "symbol",
    [
        "_ZN3c106detail14torchCheckFailEPKcS2_jS2_",
        "_ZNK2at6Tensor4sizeEl",
        "_ZNK3c1010TensorImpl5sizesEv",
        "PyErr_Clear",
    ],
)
def test_forbidden_symbols_are_recognised(symbol: str) -> None:
    assert FORBIDDEN_IN_TENSOR_LIBRARY.search(symbol)
    assert FORBIDDEN_IN_KERNELS.search(symbol)


def test_version_stands_in_one_place() -> None:
    assert metadata.version("seo_kernels") == sk.__version__ == sk.info()["version"]


def requirements() -> dict[str, set[str]]:
    """What the package asks for: extra ("" for the package itself) -> names."""
    extras = metadata.metadata("seo_kernels").get_all("Provides-Extra") or []
    found: dict[str, set[str]] = {name: set() for name in ["", *extras]}
    for requirement in map(Requirement, metadata.requires("seo_kernels") or []):
        for extra, names in found.items():
            alone = requirement.marker is None
            if alone == (extra == "") and (alone or requirement.marker.evaluate({"extra": extra})):
                names.add(canonicalize_name(requirement.name))
    return found


def test_package_needs_little_and_the_rest_is_in_extras() -> None:
    found = requirements()
    assert found[""] == {"torch", "numpy", "typer", "rich"}
    assert {"models", "train", "plots", "dev"} <= set(found)


def test_what_the_makefile_installs_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(Requirement(line).name) for line in lines if not line.startswith("#")}
    assert "torch==2.13.0" in lines
    found = requirements()
    (installed,) = re.findall(r"--editable '\.\[(.+)\]'", (ROOT / "Makefile").read_text())
    for extra in ["", *installed.split(",")]:
        assert found[extra] - pins == set()


def test_extras_named_in_errors_exist() -> None:
    for path in Path(sk.__file__).parent.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            if ast.unparse(call.func) == "ConfigDict":  # pydantic's word for unknown keys
                continue
            for keyword in call.keywords:
                if keyword.arg == "extra" and isinstance(keyword.value, ast.Constant):
                    assert keyword.value.value in requirements(), f"{path}:{call.lineno}"


# What the build says where something is missing
# ----------------------------------------------


@pytest.fixture
def source_tree(tmp_path: Path) -> Path:
    """The project without anything that was built."""
    tree = tmp_path / "source"
    built = shutil.ignore_patterns("lib", "*.so", "__pycache__")
    for folder in ("csrc", "python", "seo_kernels"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=built)
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def bare_environment(**variables: str) -> dict[str, str]:
    """No compiler within reach."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PATH", "CXX", "PYTHONPATH")}
    kept.pop("SEO_KERNELS_REQUIRE_NATIVE", None)
    return {**kept, "PATH": "", **variables}


def no_compiler(_: Path) -> dict[str, str]:
    return bare_environment()


def failing_compiler(folder: Path) -> dict[str, str]:
    (folder / "g++").write_text("#!/bin/sh\nexit 1\n")
    (folder / "g++").chmod(0o755)
    return bare_environment(CXX=str(folder / "g++"))


def no_torch(folder: Path) -> dict[str, str]:
    return bare_environment(
        CXX=shutil.which("g++") or "g++", PATH=os.environ["PATH"], SEO_KERNELS_TORCH=str(folder)
    )


def old_torch(folder: Path) -> dict[str, str]:
    (folder / "torch").mkdir()
    (folder / "torch" / "version.py").write_text("__version__ = '2.10.1+cu128'\n")
    return no_torch(folder)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (no_compiler, "no C++ compiler: none of g++, clang++, c++ is on PATH; install g++"),
        (failing_compiler, "does not know -std=c++20: install g++ 12 or newer"),
        (no_torch, "no torch in the environment that is built for: install torch 2.11 or newer"),
        (old_torch, "is older than 2.11: install torch 2.11 or newer"),
    ],
)
def test_failed_build_says_what_is_missing(
    environment: Callable[[Path], dict[str, str]], message: str, source_tree: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "environment"
    folder.mkdir()
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    built = subprocess.run(command, cwd=source_tree, env=environment(folder), capture_output=True, text=True)
    assert built.returncode != 0
    assert message in built.stderr


USE_WITHOUT_KERNELS = """
import warnings
import torch
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import seo_kernels as sk
    query = torch.randn(1, 2, 9, 8, requires_grad=True)
    for _ in range(2):
        out = sk.attention(query, query, query, pattern=sk.Local(2))
        out.sum().backward()
assert "site-packages" in sk.__file__, sk.__file__
torch.testing.assert_close(out, sk.reference.attention(query, query, query, pattern=sk.Local(2)))
assert sk.info()["native"] is False and "no C++ compiler" in sk.info()["reason"], sk.info()
(message,) = {str(w.message) for w in caught if "seo_kernels" in str(w.message)}
assert len([w for w in caught if str(w.message) == message]) == 1
assert "no C++ compiler" in message, message

import custom_model_architectures as documented
assert "site-packages" in documented.__file__, documented.__file__
model = documented.CustomTransformer(50, d_model=16, n_layers=1, n_heads=2)
assert model(torch.randint(50, (2, 9)), torch.ones(2, 9)).shape == (2, 9, 16)

import advanced_autograd_models as advanced
assert "site-packages" in advanced.__file__, advanced.__file__
config = advanced.ModelConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2, use_rope=True)
ids = torch.randint(50, (2, 9))
assert advanced.AdvancedTransformerModel(config)(ids, labels=ids)["loss"].isfinite()

import custom_models
assert "site-packages" in custom_models.__file__, custom_models.__file__
config = custom_models.CustomModelConfig(hidden_size=16, num_layers=1, num_heads=2, vocab_size=50)
model = custom_models.create_custom_model(config)
assert model(torch.randint(50, (2, 9)), torch.ones(2, 9)).shape == (2, 3)
"""


@pytest.mark.slow
def test_install_without_a_compiler_gives_the_reference(source_tree: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    Path(paths["purelib"], "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch, setuptools
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", *options, str(source_tree)]

    required = bare_environment(SEO_KERNELS_REQUIRE_NATIVE="1")
    failed = subprocess.run(install, env=required, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "no C++ compiler" in failed.stdout + failed.stderr

    subprocess.run(install, env=bare_environment(), check=True)
    subprocess.run([python, "-c", USE_WITHOUT_KERNELS], cwd=tmp_path, env=bare_environment(), check=True)
