"""The GPU's kernels without a GPU: the op suite on the host executor, under sanitizers; mistakes are seen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seo_kernels import _library

TESTS = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c++20", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# families of the op suite: their files, and which tests concern the kernels: values, sizes, layouts, errors
OP_SUITE = {
    "activation": (
        ["test_activation.py"],
        "not (compiled or contract or third_order or repeatable or autocast)",
    ),
    "dropout": (
        ["test_dropout.py"],
        "reference or half or layouts or is_dropped or mask or of_the_op",
    ),
    "losses": (
        [
            "test_losses.py",
            "test_losses_extremes.py",
            "test_losses_arguments.py",
            "test_losses_contract.py",
        ],
        "not (autocast or instruction_set or inductor or compiled or vmap or derivatives or third_order "
        "or class_weights or opcheck_forward)",
    ),
    "linear_cross_entropy": (
        ["test_linear_cross_entropy.py"],
        # the largest problems take as long as all else and show nothing more
        "not (autocast or memory_beyond or number_of_threads or 193 or 1600)",
    ),
    "linear": (
        ["test_linear.py", "test_lora_linear.py", "test_linear_kernels.py"],
        "not (compiled or contract or opcheck or autocast or meta or nested or randomness or samples "
        "or repeatable or instruction_set or 257 or 530 or 900)",
    ),
    "lora on tensor cores": (
        ["test_lora_linear.py", "test_linear_kernels.py"],
        "(test_lora_linear and (error or sizes or strides or extreme or float16) "
        "or past_one_tile and bfloat16) "
        "and not (autocast or 257 or 530 or 900 or torch.float64 or torch.float32)",
    ),
    "attention": (
        ["test_attention_oracle.py", "test_attention_arguments.py", "test_attention_memory_layout.py"],
        "not (instruction_set or compile or traces)",
    ),
    "attention gradients": (
        ["test_attention_gradcheck.py"],
        "first_order or several_tiles or gradients or hold_anything or nothing_to_do",
    ),
    "attention on tensor cores": (
        ["test_attention_oracle.py", "test_attention_memory_layout.py"],
        "not instruction_set",
    ),
    "attention on tensor cores, every pair of arguments": (
        ["test_attention_oracle.py"],
        "directed or every_pair",
    ),
    "attention on tensor cores, what is added to scores": (["test_attention_score_gradients.py"], "test"),
    "linear on tensor cores": (
        ["test_linear.py", "test_linear_kernels.py"],
        "not (lora or compiled or contract or opcheck or autocast or meta or nested or instruction_set "
        "or past_one_tile or 257 or 530 or 900 or 1700)",
    ),
    "linear_cross_entropy on tensor cores": (
        ["test_linear_cross_entropy.py"],
        # of the problems of several tiles one
        "not (autocast or memory_beyond or number_of_threads or error_rule or 1600 or 900 or 500 "
        "or (193 and not dtype2))",
    ),
    "attention on warpgroups": (
        ["test_attention_oracle.py", "test_attention_memory_layout.py"],
        "not instruction_set",
    ),
    "attention on warpgroups, relative tables": (
        ["test_attention_oracle.py"],
        # of every pair of arguments those with relative keys or values
        "every_pair and (-key or -value or -all)",
    ),
    "attention on warpgroups, wide heads": (
        ["test_attention_oracle.py"],
        # of the directed sizes those of 256
        "wide_heads or directed and (63x63 or 100x257)",
    ),
    "attention on tensor cores, refused": (
        ["test_attention_gradcheck.py"],
        "hold_anything or nothing_to_do",
    ),
}
for _op in ("linear", "lora", "linear_cross_entropy"):
    OP_SUITE[f"{_op} on warpgroups"] = OP_SUITE[f"{_op} on tensor cores"]
ATTENTION_SHARE = "6"  # one of so many of attention's cases, of which there are hundreds
TENSOR_CORES = {
    "SEO_KERNELS_TIER": "sm80",
    "SEO_KERNELS_TEST_DTYPES": "bfloat16 float16",
}
WARPGROUPS = TENSOR_CORES | {"SEO_KERNELS_TIER": "sm90a"}
SLOW = {"attention on tensor cores, every pair of arguments"}

compiler = shutil.which("g++")
needs_compiler = pytest.mark.skipif(compiler is None, reason="the kernels are compiled for the host by g++")
needs_host_library = pytest.mark.skipif(
    compiler is None or not (_library._FOLDER / "libseo_kernels_host.so").exists(),
    reason="`make test` builds libseo_kernels_host.so",
)


def _library_of_gcc(name: str) -> str:
    assert compiler is not None
    return subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _host_environment() -> dict[str, str]:
    """For a process that loads libseo_kernels_host.so."""
    # the sanitizer comes first in the process, and finds the throw of libstdc++ only where that is there too
    return os.environ | {
        "LD_PRELOAD": f"{_library_of_gcc('libasan.so')} {_library_of_gcc('libstdc++.so.6')}",
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS / "cuda")]),
    }


def _run(family: str) -> subprocess.CompletedProcess[str]:
    files, chosen = OP_SUITE[family]
    environment = _host_environment() | {"SEO_KERNELS_TEST_SHARE": ATTENTION_SHARE}
    environment |= TENSOR_CORES if "tensor cores" in family else {}
    environment |= WARPGROUPS if "warpgroups" in family else {}
    environment |= {"SEO_KERNELS_TEST_DIM_STEP": "8"} if "attention on warpgroups" in family else {}
    environment |= {"SEO_KERNELS_TEST_SHARE": "2"} if "relative tables" in family else {}
    environment |= {"SEO_KERNELS_TEST_SHARE": "1"} if family in SLOW or "wide heads" in family else {}
    options = ("-q", "-x", "-p", "on_host", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen)
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(TESTS / "ops" / name for name in files)],
        env=environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )


@needs_compiler
@needs_host_library
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in OP_SUITE]
)
def test_op_suite(family: str) -> None:
    done = _run(family)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    # torch says whose kernels are replaced
    assert "new kernel: registered at" in done.stderr
    assert "_cuda.cpp" in done.stderr


TIER_QUESTION = """
import sys, torch, on_host
dim = int(sys.argv[2])
query = torch.zeros(1, 2, 70, dim, dtype=getattr(torch, sys.argv[1]))
tables = [torch.zeros(9, dim) if name in sys.argv[3:] else None for name in ("key", "value")]
rest = ("dense", None, *tables, *[None] * 8, 0.0, 1.0, 0.0, 0)
print(*torch.ops.seo_kernels.attention_tier(query, query, query, *rest), sep="|")
"""


def _ask_for_tier(tier: str | None, dtype: str, dim: int, *tables: str) -> subprocess.CompletedProcess[str]:
    environment = _host_environment() | ({} if tier is None else {"SEO_KERNELS_TIER": tier})
    command = [sys.executable, "-c", TIER_QUESTION, dtype, str(dim), *tables]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@needs_host_library
@pytest.mark.parametrize(
    ("tier", "dtype", "dim", "chosen", "rows", "why"),
    [
        (None, "bfloat16", 64, "simt", 64, "SEO_KERNELS_TIER=sm80 or sm90a asks for them"),
        ("simt", "bfloat16", 64, "simt", 64, "SEO_KERNELS_TIER=sm80 or sm90a asks for them"),
        ("sm80", "bfloat16", 64, "sm80", 128, "asks for tensor cores"),
        ("sm80", "float16", 200, "sm80", 64, "asks for tensor cores"),
        ("sm80", "float32", 64, "simt", 64, "sm80 refuses, it multiplies bfloat16 and float16 only"),
        ("sm90a", "bfloat16", 64, "sm90a", 128, "asks for tensor cores"),
        ("sm90a", "float16", 200, "sm90a", 128, "asks for tensor cores"),
        ("sm90a", "float16", 100, "sm80", 128, "sm90a refuses, query cannot be copied"),
        ("sm90a", "float32", 64, "simt", 64, "sm90a refuses, it multiplies bfloat16 and float16 only"),
    ],
)
def test_choice_of_a_tier(tier: str | None, dtype: str, dim: int, chosen: str, rows: int, why: str) -> None:
    done = _ask_for_tier(tier, dtype, dim)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = done.stdout.strip().split("|")
    assert answer[:2] == [chosen, str(rows)]
    assert why in answer[2]


@needs_host_library
@pytest.mark.parametrize(
    ("tables", "dim", "chosen"),
    [
        (("key",), 64, "sm90a"),
        (("value",), 64, "sm90a"),
        (("key", "value"), 128, "sm90a"),
        (("key",), 256, "sm80"),
    ],
)
def test_choice_of_a_tier_with_relative_tables(tables: tuple[str, ...], dim: int, chosen: str) -> None:
    done = _ask_for_tier("sm90a", "bfloat16", dim, *tables)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = done.stdout.strip().split("|")
    assert answer[0] == chosen
    assert ("sm90a refuses, relative keys and values" in answer[2]) is (chosen == "sm80")


@needs_host_library
def test_an_unknown_tier_is_an_error() -> None:
    done = _ask_for_tier("sm42", "bfloat16", 64)
    assert done.returncode != 0
    assert "SEO_KERNELS_TIER is 'sm42', expected simt, sm80 or sm90a" in done.stderr


def _program(folder: Path, name: str, *more: str) -> Path:
    assert compiler is not None
    source = TESTS.parent / "csrc"
    files = [TESTS / "cuda" / f"{name}.cpp", *(source / file for file in more)]
    command = [compiler, *FLAGS, "-Wno-unknown-pragmas", f"-I{source}", *files, "-o", folder / name]
    subprocess.run(command, check=True)
    return folder / name


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _program(tmp_path_factory.mktemp("planted"), "planted")


@pytest.fixture(scope="module")
def warps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _program(
        tmp_path_factory.mktemp("warps"), "warps", "params/tile_plan.cpp", "cuda/host/device_limits.cpp"
    )


@pytest.fixture(scope="module")
def matmul(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _program(tmp_path_factory.mktemp("matmul"), "matmul")


@pytest.fixture(scope="module")
def schedule(tmp_path_factory: pytest.TempPathFactory) -> Path:
    more = ("params/tile_plan.cpp", "cuda/host/device_limits.cpp")
    return _program(tmp_path_factory.mktemp("schedule"), "schedule", *more)


@needs_compiler
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("none", "right"),
        ("shortest", "a longer one begins later"),
        ("section", "a section does not fit the cache"),
        ("twice", "is visited 0 times"),
    ],
)
def test_blocks_take_the_longest_first(schedule: Path, mistake: str, said: str) -> None:
    done = subprocess.run([schedule, "order", mistake], capture_output=True, text=True)
    assert said in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) is (mistake == "none")


@needs_compiler
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("none", "right"),
        ("counter", "3 is taken 0 times"),
        ("next", "is taken 0 times"),
    ],
)
def test_each_tile_is_taken_once(schedule: Path, mistake: str, said: str) -> None:
    done = subprocess.run([schedule, "deal", mistake], capture_output=True, text=True)
    assert said in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) is (mistake == "none")


WARPS = ("bfloat16", "float16", "neighbours", "swizzle 64", "swizzle 128", "swizzle 256", "band", "ranges")


@needs_compiler
@pytest.mark.parametrize("what", WARPS)
def test_what_warps_do(warps: Path, what: str) -> None:
    done = subprocess.run([warps, what], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stdout + done.stderr


@needs_compiler
@pytest.mark.parametrize(
    ("what", "mistake", "seen"),
    [
        ("bfloat16", "column", "wrong: a product at"),
        ("bfloat16", "no-wait", "to which a copy is under way"),
        ("float16", "late-wait", "to which a copy is under way"),
        ("float16", "no-barrier", "without a barrier, thread"),
        ("neighbours", "no-warp-barrier", "without a barrier, thread"),
        ("neighbours", "no-second-barrier", "without a barrier, thread"),
        ("neighbours", "another-warp", "without a barrier, thread"),
        ("ranges", "range", "a tile that only keys visit"),
    ],
)
def test_a_mistake_of_warps_is_seen(warps: Path, what: str, mistake: str, seen: str) -> None:
    done = subprocess.run([warps, what, mistake], capture_output=True, text=True)
    assert done.returncode != 0
    assert seen in done.stdout + done.stderr


MATMUL = (
    "layouts bfloat16",
    "layouts float16",
    "sizes",
    "swizzle 32",
    "swizzle 128",
    "swizzle 256",
    "raster",
    "order",
)


@needs_compiler
@pytest.mark.parametrize("what", MATMUL)
def test_matrix_product(matmul: Path, what: str) -> None:
    done = subprocess.run([matmul, what], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stdout + done.stderr


@needs_compiler
@pytest.mark.parametrize(
    ("what", "mistake", "seen"),
    [
        ("sizes", "column", "wrong: a sum at"),
        ("sizes", "one-term", "wrong: a sum at"),
        ("layouts bfloat16", "short", "wrong: what is stored at"),
        ("swizzle 32", "plain", "wrong: two lines of a matrix in the same banks"),
        ("raster", "twice", "wrong: a tile that comes twice"),
        ("order", "no-wait", "to which a copy is under way"),
        ("order", "no-barrier", "without a barrier, thread"),
    ],
)
def test_a_mistake_of_a_matrix_product_is_seen(matmul: Path, what: str, mistake: str, seen: str) -> None:
    done = subprocess.run([matmul, what, mistake], capture_output=True, text=True)
    assert done.returncode != 0
    assert seen in done.stdout + done.stderr


@needs_compiler
@pytest.mark.parametrize(
    ("mistake", "seen"),
    [
        ("no-barrier", "without a barrier, thread"),
        ("overwrite", "without a barrier, thread"),
        ("shared-index", "shared memory: index 64 of 64"),
        ("tile-bound", "heap-buffer-overflow"),
    ],
)
def test_a_mistake_is_seen(planted: Path, mistake: str, seen: str) -> None:
    done = subprocess.run([planted, mistake], capture_output=True, text=True)
    assert done.returncode != 0
    assert seen in done.stdout + done.stderr


@needs_compiler
def test_without_a_mistake(planted: Path) -> None:
    done = subprocess.run([planted, "none"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "63 63 191\n"), done.stderr
