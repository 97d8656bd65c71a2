"""The cases for GPUs, verified at small sizes on whatever device is here."""

from dataclasses import replace

import pytest
import torch

from seo_kernels import _library
from seo_kernels.benchmark import comparison
from seo_kernels.benchmark.case import OURS, Case
from seo_kernels.benchmark.gpu_cases import GpuSizes, gpu_cases

pytestmark = [
    pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu")),
    pytest.mark.usefixtures("uncompiled"),
]
DEVICE = "cuda" if torch.cuda.is_available() and _library.available("cuda") else "cpu"
SMALL = GpuSizes(
    rows=48, columns=40, features=24, rank=3, heads=2, dim=16, length=200, long=320, window=24, reach=12,
    block=16, vocabulary=90,
)  # fmt: skip
CASES = {case.name: case for case in gpu_cases(SMALL)}


def test_they_run_on_the_gpu() -> None:
    assert {case.device for case in gpu_cases()} == {"cuda"}
    assert len(CASES) == len(gpu_cases(SMALL))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_contender_passes_verification(case: Case) -> None:
    contenders = comparison.prepare(replace(case, device=DEVICE))
    assert [contender.name for contender in contenders] == [OURS, *(peer.name for peer in case.peers)]
    for contender in contenders:
        assert contender.call is None or contender.error is not None
    absent = {contender.name.split(",")[0] for contender in contenders if contender.call is None}
    assert absent <= {
        "Liger",
        "SDPA cuDNN",
        "SDPA flash",
        "SDPA efficient",
        "FlexAttention",
        "FlexAttention, learned bias",
    }
