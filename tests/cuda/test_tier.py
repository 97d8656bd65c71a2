"""Which tier of the GPU's kernels serves a call: asked of the host library, whose choice is the same code."""

import subprocess
import sys

import pytest
from cuda.test_kernels_on_host import host_environment, needs_host_library

QUESTION = """
import sys, torch, on_host
query = torch.zeros(1, 2, 70, int(sys.argv[2]), dtype=getattr(torch, sys.argv[1]))
rest = ("dense", *[None] * 11, 0.0, 1.0, 0.0, 0)
print(*torch.ops.seo_kernels.attention_tier(query, query, query, *rest), sep="|")
"""


def ask(tier: str | None, dtype: str, dim: int) -> subprocess.CompletedProcess[str]:
    environment = host_environment() | ({} if tier is None else {"SEO_KERNELS_TIER": tier})
    command = [sys.executable, "-c", QUESTION, dtype, str(dim)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@needs_host_library
@pytest.mark.parametrize(
    ("tier", "dtype", "dim", "chosen", "rows", "why"),
    [
        (None, "bfloat16", 64, "simt", 64, "SEO_KERNELS_TIER=sm80 asks for them"),
        ("simt", "bfloat16", 64, "simt", 64, "SEO_KERNELS_TIER=sm80 asks for them"),
        ("sm80", "bfloat16", 64, "sm80", 128, "asks for tensor cores"),
        ("sm80", "float16", 200, "sm80", 64, "asks for tensor cores"),
        ("sm80", "float32", 64, "simt", 64, "sm80 refuses, it multiplies bfloat16 and float16 only"),
    ],
)
def test_choice(tier: str | None, dtype: str, dim: int, chosen: str, rows: int, why: str) -> None:
    done = ask(tier, dtype, dim)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = done.stdout.strip().split("|")
    assert answer[:2] == [chosen, str(rows)]
    assert why in answer[2]


@needs_host_library
def test_an_unknown_tier_is_an_error() -> None:
    done = ask("sm42", "bfloat16", 64)
    assert done.returncode != 0
    assert "SEO_KERNELS_TIER is 'sm42', expected simt or sm80" in done.stderr
