"""Memory of large results serves the next ones, and nobody notices."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels._library import freed_results_kept
from seo_kernels.diagnostics import AutogradProfiler

MEGABYTE = 1 << 20

pytestmark = pytest.mark.skipif(not _library.available("cpu"), reason="no kernels for the CPU")


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    """Each test begins with nothing kept, and nothing that earlier ones left to the collector."""
    gc.collect()
    with freed_results_kept(0), freed_results_kept(1024 * MEGABYTE):
        yield


def result(value: float, rows: int = 1024) -> Tensor:
    """4 KB a row."""
    return sk.bias_act(torch.full((rows, 1024), float(value)), activation="relu")


def test_the_next_result_lies_where_the_last_one_lay() -> None:
    first = result(1)
    place = first.data_ptr()
    del first
    second = result(2)
    assert second.data_ptr() == place
    assert (second == 2).all()


def test_what_is_in_use_is_left_alone() -> None:
    first = result(1)
    place, view = first.data_ptr(), first[3:5]
    del first
    assert result(2).data_ptr() != place
    assert (view == 1).all()
    del view
    assert result(3).data_ptr() == place


def test_a_much_larger_block_is_not_taken() -> None:
    big = result(1, 2048)
    place = big.data_ptr()
    del big
    small = result(2)
    assert result(3, 2048).data_ptr() == place
    assert (small == 2).all()


def test_zeros_are_zeros_in_used_memory() -> None:
    weight = torch.ones(1024, 512, requires_grad=True)
    used = [result(1, 512) for _ in range(4)]  # of the size of a gradient of weight
    places = {each.data_ptr() for each in used}
    del used
    hidden = torch.ones(0, 512)
    sk.linear_cross_entropy(hidden, weight, torch.ones(0, dtype=torch.long), reduction="sum").backward()
    assert weight.grad is not None
    assert weight.grad.data_ptr() in places
    assert not weight.grad.any()


@pytest.mark.parametrize("rows", [1 << 24, 1 << 39], ids=["too large", "beyond 64 bits"])
def test_a_result_that_no_memory_holds(rows: int) -> None:
    weight = torch.zeros(1, 1).expand(rows, 1)
    with pytest.raises(RuntimeError, match="new_empty"):  # torch's own error
        sk.linear(torch.zeros(1, 1).expand(1 << 24, 1), weight)
    assert (result(1) == 1).all()


def test_results_of_many_threads() -> None:
    wrong: list[float] = []

    def work(value: float) -> None:
        held: list[Tensor] = []
        for turn in range(30):
            held = [*held[-2:], result(value + turn, 256 + 64 * (turn % 3))]
            wrong.extend(each.max().item() for each in held if each.min() != each.max())

    threads = [threading.Thread(target=work, args=(1000.0 * n + 1,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong


def script(text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAKE + text],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


MAKE = """
import torch
import seo_kernels as sk
def make():  # 64 MB
    return sk.bias_act(torch.ones(4096, 4096), activation="relu")
"""
RESIDENT = """
def resident():  # MB
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024
make()
start = resident()
all = [make() for _ in range(3)]
del all
print(resident() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kept", "least", "most"), [("0", -10, 10), ("64", -10, 10), ("1024", 120, 140)])
def test_no_more_is_kept_than_is_allowed(kept: str, least: int, most: int) -> None:
    found = script(RESIDENT, SEO_KERNELS_KEPT_MB=kept)
    assert found.returncode == 0, found.stderr
    assert least <= int(found.stdout) <= most


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "99999999999999"])
def test_a_value_that_is_none(value: str) -> None:
    found = script("make()", SEO_KERNELS_KEPT_MB=value)
    assert f"SEO_KERNELS_KEPT_MB is '{value}', expected how many megabytes" in found.stderr


def test_the_profiler_sees_all_memory() -> None:
    first = result(1)
    del first
    profiler = AutogradProfiler(operators=True, profile_memory=True)
    with profiler.profile_autograd("result"):
        kept = result(2)
    assert "4.00 MB" in profiler.operator_table()
    del kept
