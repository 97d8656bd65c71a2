"""What warpgroups do, on the host: their products, copies and barriers; and mistakes are seen."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++20", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
compiler = shutil.which("g++")
pytestmark = pytest.mark.skipif(compiler is None, reason="the kernels are compiled for the host by g++")

WHAT = (
    "narrow",
    "wide",
    "widths",
    "pipeline",
    "boxes",
    "refusals",
    "registers",
    "matmul bfloat16",
    "matmul float16",
)


@pytest.fixture(scope="module")
def warpgroups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("warpgroups") / "warpgroups"
    source = ROOT / "tests" / "cuda" / "warpgroups.cpp"
    limits = ROOT / "csrc" / "cuda" / "host" / "device_limits.cpp"
    command = [compiler, *FLAGS, "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}", source, limits, "-pthread"]
    subprocess.run([*map(str, command), "-o", program], check=True)
    return program


@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", WHAT)
def test_what_warpgroups_do(warpgroups: Path, what: str) -> None:
    done = subprocess.run([warpgroups, what], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stdout + done.stderr


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "mistake", "seen"),
    [
        ("rows", "no-wait", "products read index 0, never written"),
        ("rows", "swizzle", "swizzle is not that of 128 bytes"),
        ("rows", "stride", "wrong: a product at"),
        ("rows", "start", "begins within the swizzle's pattern"),
        ("rows", "unnamed", "sums that begin_products does not name"),
        ("rows", "in-flight", "sums were touched while products were under way"),
        ("rows", "overwritten", "overwrites what products read that are under way"),
        ("rows", "no-product-wait", "ends with products under way"),
        ("written", "unseen", "wrote without show_to_engines"),
        ("written", "no-barrier", "group 0 has products read what thread"),
        ("pipeline", "missing-arrival", "8 of 12 arrivals"),
        ("pipeline", "arrives-not", "4 of 8 arrivals"),
        ("pipeline", "arrives-twice", "deadlock: group 0 waits for barrier"),
        ("pipeline", "no-empty-wait", "writes what the copy engine touched"),
        ("pipeline", "empty-parity", "deadlock: group 0 waits for barrier"),
        ("pipeline", "full-parity", "products read index 0, never written"),
        ("pipeline", "no-full-wait", "to which a copy is under way"),
        ("pipeline", "bytes", "24576 of 24592 bytes"),
        ("pipeline", "few-bytes", "copies of 24576 bytes, it expects 24560"),
        ("pipeline", "late-wait", "overwrites what products read that are under way"),
        ("pipeline", "early-arrival", "overwrites what products read,"),
    ],
)
def test_a_mistake_of_warpgroups_is_seen(warpgroups: Path, what: str, mistake: str, seen: str) -> None:
    done = subprocess.run([warpgroups, what, mistake], capture_output=True, text=True)
    assert done.returncode != 0
    assert seen in done.stdout + done.stderr
