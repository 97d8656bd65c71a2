"""The arrows of the house run one way: import and include lines are held against the tables below."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Every unit of the package, and the units that it may import; a unit may always import itself.
# "seo_kernels" stands for the package's public names. The longest name that fits a module is its unit.
VALUES = {"patterns", "relative"}
ARGUMENTS = {
    "ops.checks",
    "ops.activation_arguments",
    "ops.arguments",
    "ops.dropout_arguments",
    "ops.linear_arguments",
    "ops.loss_arguments",
}
OPS = {*VALUES, *ARGUMENTS, "_library", "ops"}
PYTHON_LAYERS: dict[str, set[str]] = {
    "_C": set(),
    "_extras": set(),
    "_library": {"_C", "seo_kernels"},  # for the version
    "patterns": set(),
    "relative": set(),
    # what the arguments mean: kernels and reference share it, it computes nothing
    "ops.checks": set(),
    "ops.activation_arguments": {"ops.checks"},
    "ops.arguments": {*VALUES, "ops.checks"},
    "ops.dropout_arguments": {"ops.checks"},
    "ops.linear_arguments": {"ops.checks"},
    "ops.loss_arguments": set(),
    "reference": {*VALUES, *ARGUMENTS},
    "ops": {*OPS, "reference"},
    "nn": OPS,
    "lora": {*OPS, "nn", "_extras"},
    "models": {*OPS, "nn", "_extras"},
    "diagnostics": {*OPS, "nn", "reference", "seo_kernels", "_extras"},
    "integrations": {*OPS, "nn", "seo_kernels", "_extras"},
    "training": {*OPS, "nn", "models", "diagnostics", "seo_kernels", "_extras"},
    "examples": {*OPS, "nn", "models", "diagnostics", "training", "seo_kernels", "_extras"},
    "benchmark": {
        *OPS,
        "nn",
        "models",
        "diagnostics",
        "training",
        "integrations",
        "reference",
        "seo_kernels",
        "_extras",
    },
    "demo": {*OPS, "nn", "models", "diagnostics", "training", "seo_kernels", "_extras"},
    "cli": {
        *OPS,
        "nn",
        "models",
        "diagnostics",
        "training",
        "benchmark",
        "demo",
        "reference",
        "seo_kernels",
        "_extras",
    },
    "gpu": {"_library", "benchmark", "diagnostics", "seo_kernels"},
    "__main__": {"cli"},
    "seo_kernels": {*OPS, "nn", "lora", "reference"},
}
# What the documented modules in python/ may import of the package.
DOCUMENTED = {"examples", "training", "models", "diagnostics", "nn", "lora", "seo_kernels"}

# Every folder of csrc, the folders that it may include, and the outside headers that it may not.
TENSORS = ("torch/", "ATen/", "c10/", "Python.h", "pybind11/")
INTRINSICS = ("immintrin.h", "x86intrin.h", "xmmintrin.h", "emmintrin.h", "arm_neon.h", "arm_sve.h")
CUDA = ("cuda", "cute/", "cutlass/")
CPP_LAYERS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "semantics": (set(), (*TENSORS, *INTRINSICS, *CUDA)),
    "params": ({"semantics"}, (*TENSORS, *INTRINSICS, *CUDA)),
    "cpu": ({"semantics", "params"}, (*TENSORS, *CUDA)),
    "cuda": ({"semantics", "params"}, (*TENSORS, *INTRINSICS)),
    "torch": (
        {"semantics", "params", "cpu", "cuda"},
        ("Python.h", "pybind11/", "ATen/", "c10/", *INTRINSICS),
    ),
    "python": ({"semantics"}, ("torch/", "ATen/", "c10/", *INTRINSICS, *CUDA)),
}


def python_unit(module: str) -> str:
    """The unit of a dotted module name within seo_kernels ("" is the package itself)."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in PYTHON_LAYERS:
            return ".".join(parts[:length])
    return parts[0] or "seo_kernels"


def imported_modules(path: Path, module: str, package: Path) -> Iterable[tuple[int, str]]:
    """(line, dotted name within the package) of every import of the package, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = f"{package.name}.{module}".rstrip(".").split(".")
                if path.name != "__init__.py":
                    here.pop()
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if is_module(name, package) else base for name in names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == package.name:
                yield node.lineno, name.partition(".")[2]


def is_module(name: str, package: Path) -> bool:
    place = package.parent / name.replace(".", "/")
    return any(
        candidate.exists() for candidate in (place, place.with_suffix(".py"), place.with_suffix(".pyi"))
    )


def python_violations(root: Path) -> list[str]:
    package, found = root / "seo_kernels", []
    for path in sorted(package.rglob("*.py")):
        module = (
            ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        )
        unit = python_unit(module)
        if unit not in PYTHON_LAYERS:
            found.append(f"{path.relative_to(root)}: {unit} has no entry in PYTHON_LAYERS")
            continue
        for line, target in imported_modules(path, module, package):
            other = python_unit(target)
            if other != unit and other not in PYTHON_LAYERS[unit]:
                found.append(f"{path.relative_to(root)}:{line}: {unit} imports {other}")
    for path in sorted((root / "python").rglob("*.py")):
        for line, target in imported_modules(path, path.stem, package):
            if python_unit(target) not in DOCUMENTED:
                found.append(f"{path.relative_to(root)}:{line}: python imports {python_unit(target)}")
    documented = {path.stem for path in (root / "python").rglob("*.py")}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in documented & {name.split(".")[0] for name in names}:
                found.append(f"{path.relative_to(root)}:{node.lineno}: seo_kernels imports {name}")
    return found


INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^">]+)[">]', re.MULTILINE)


def cpp_violations(root: Path) -> list[str]:
    csrc, found = root / "csrc", []
    for path in sorted(p for p in csrc.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"}):
        unit = path.relative_to(csrc).parts[0]
        if unit not in CPP_LAYERS:
            found.append(f"{path.relative_to(root)}: {unit} has no entry in CPP_LAYERS")
            continue
        allowed, forbidden = CPP_LAYERS[unit]
        for bracket, header in INCLUDE.findall(path.read_text()):
            own = next(
                (p for p in (path.parent / header, csrc / header) if bracket == '"' and p.exists()), None
            )
            if own is not None:
                other = own.resolve().relative_to(csrc.resolve()).parts[0]
                if other != unit and other not in allowed:
                    found.append(f"{path.relative_to(root)}: {unit} includes {header} of {other}")
            elif header.startswith(forbidden):
                found.append(f"{path.relative_to(root)}: {unit} includes {header}")
    return found


def test_arrows_run_one_way() -> None:
    assert python_violations(ROOT) + cpp_violations(ROOT) == []


def test_reference_calls_no_kernel() -> None:
    for path in (ROOT / "seo_kernels" / "reference").rglob("*.py"):
        attributes = (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
        )
        assert "torch.ops" not in {ast.unparse(node) for node in attributes}, path


def test_kernel_sources_are_seen() -> None:
    assert list((ROOT / "seo_kernels").rglob("*.py"))
    assert list((ROOT / "csrc").rglob("*.h"))


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


PACKAGE = {
    f"seo_kernels/{name}": ""
    for name in ("__init__.py", "relative.py", "ops/attention.py", "nn/__init__.py", "nn/attention.py")
} | {"python/documented.py": "from seo_kernels.nn.attention import f"}
HEADERS = {f"csrc/{name}": "" for name in ("semantics/pattern.h", "cpu/plan.h", "torch/checks.h")}


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("seo_kernels/ops/loss.py", "import seo_kernels.nn", "ops imports nn"),
        ("seo_kernels/ops/loss.py", "def f():\n    from seo_kernels import nn", "ops imports nn"),
        ("seo_kernels/ops/loss.py", "from seo_kernels.nn.attention import X", "ops imports nn"),
        ("seo_kernels/ops/loss.py", "from ..nn import attention", "ops imports nn"),
        ("seo_kernels/ops/loss.py", "from .. import nn", "ops imports nn"),
        ("seo_kernels/ops/loss.py", "import seo_kernels as sk", "ops imports seo_kernels"),
        ("seo_kernels/ops/loss.py", "from seo_kernels import RelativePosition", "ops imports seo_kernels"),
        ("seo_kernels/reference/loss.py", "from seo_kernels.ops.attention import f", "reference imports ops"),
        ("seo_kernels/relative.py", "from seo_kernels.ops import attention", "relative imports ops"),
        ("seo_kernels/diagnostics/a.py", "import seo_kernels.models.bert", "diagnostics imports models"),
        ("seo_kernels/models/a.py", "from seo_kernels.training import x", "models imports training"),
        ("seo_kernels/nn/a.py", "from seo_kernels.demo import x", "nn imports demo"),
        ("seo_kernels/novelty/a.py", "", "novelty has no entry"),
        ("python/a.py", "from seo_kernels.ops.attention import f", "python imports ops"),
        ("python/a.py", "import seo_kernels.demo", "python imports demo"),
        ("seo_kernels/models/a.py", "from documented import X", "seo_kernels imports documented"),
        ("seo_kernels/nn/a.py", "import documented", "seo_kernels imports documented"),
        ("csrc/semantics/a.h", '#include "cpu/plan.h"', "semantics includes cpu/plan.h of cpu"),
        ("csrc/semantics/a.h", '#include "../torch/checks.h"', "of torch"),
        ("csrc/semantics/a.h", "#include <immintrin.h>", "semantics includes immintrin.h"),
        ("csrc/semantics/a.h", "#  include <torch/csrc/stable/tensor.h>", "semantics includes torch/"),
        ("csrc/semantics/a.h", "#include <cuda_runtime.h>", "semantics includes cuda_runtime.h"),
        ("csrc/cpu/isa/a.cpp", "#include <torch/csrc/stable/tensor.h>", "cpu includes torch/"),
        ("csrc/cpu/isa/a.cpp", '#include "torch/checks.h"', "cpu includes torch/checks.h of torch"),
        ("csrc/cuda/a.cu", '#include "cpu/plan.h"', "cuda includes cpu/plan.h of cpu"),
        ("csrc/torch/a.cpp", "#include <ATen/ATen.h>", "torch includes ATen/"),
        ("csrc/python/a.cpp", '#include "cpu/plan.h"', "python includes cpu/plan.h of cpu"),
        ("csrc/novelty/a.h", "", "novelty has no entry"),
    ],
)
def test_planted_arrow_is_found(path: str, text: str, expected: str, tmp_path: Path) -> None:
    plant(tmp_path, PACKAGE | HEADERS)
    assert python_violations(tmp_path) + cpp_violations(tmp_path) == []
    plant(tmp_path, {path: text})
    (violation,) = python_violations(tmp_path) + cpp_violations(tmp_path)
    assert violation.startswith(path)
    assert expected in violation


def test_allowed_arrows_pass(tmp_path: Path) -> None:
    plant(tmp_path, PACKAGE | HEADERS)
    plant(
        tmp_path,
        {
            "seo_kernels/__init__.py": "from seo_kernels import nn\nfrom seo_kernels.ops.attention import f",
            "seo_kernels/nn/attention.py": "from seo_kernels.ops import attention\nfrom ..relative import R",
            "csrc/cpu/isa/a.cpp": '#include <immintrin.h>\n#include <vector>\n#include "semantics/pattern.h"',
            "csrc/torch/a.cpp": '#include <torch/csrc/stable/tensor.h>\n#include "cpu/plan.h"',
        },
    )
    assert python_violations(tmp_path) + cpp_violations(tmp_path) == []
