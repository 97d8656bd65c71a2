"""The features of ``sk.dropout`` that the gradient verification runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from seo_kernels.diagnostics.checked_op import CheckedOp, Feature, Problem, Size
from seo_kernels.diagnostics.linear_cases import DROPOUT_SEED


def op() -> CheckedOp:
    """``sk.dropout`` against ``sk.reference``."""
    import seo_kernels as sk

    features = [Feature(f"p = {p:g}", _maker(p)) for p in (0.1, 0.5, 1.0)]
    features += [
        Feature("nothing dropped", _maker(0.0)),
        Feature("of a slice", _maker(0.3, sliced=True)),
        Feature("columns first in memory", _maker(0.3, transposed=True)),
    ]
    return CheckedOp("dropout", sk.dropout, sk.reference.dropout, tuple(features))


def _maker(p: float, *, sliced: bool = False, transposed: bool = False) -> Callable[[Size, str], Problem]:
    def make(size: Size, device: str) -> Problem:
        rows, columns = (3, 5) if size == "tiny" else (130, 257)
        generator = torch.Generator().manual_seed(0)
        input = torch.randn(rows, 2 * columns, generator=generator, dtype=torch.float64)

        def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            given = values["input"]
            given = given[:, :columns] if sliced else given.mT.contiguous().mT if transposed else given
            with torch.random.fork_rng(devices=[device] if given.is_cuda else []):
                torch.manual_seed(DROPOUT_SEED)
                return (function(given, p),)

        return Problem({"input": input}, call)

    return make
