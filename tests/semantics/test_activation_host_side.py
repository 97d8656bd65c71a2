"""The activations of csrc/semantics on scalars: value, first and second derivative, beside float64."""

import pytest
import torch
from ops.activation_truth import truth, ulps

from seo_kernels.ops.checks import ACTIVATIONS

_C = pytest.importorskip("seo_kernels._C", reason="wheels come without it")
ALLOWED = 3.0  # ulp; 2 where products and sums are fused


def sweep(step: int) -> torch.Tensor:
    """Floats of all sizes up to 130, denormals included, and their negatives."""
    most = int(torch.tensor(130.0).view(torch.int32))
    positive = torch.arange(0, most, step, dtype=torch.int32).view(torch.float32)
    return torch.cat([positive, -positive])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_single_precision(activation: str) -> None:
    """Sizes: see ops.activation_truth."""
    x = sweep(40009)
    found = torch.tensor(_C.activation_float32(activation, x.tolist(), 0.25))
    exact = truth(activation, x, 0.25)
    for order, (want, size) in enumerate(zip(*exact, strict=True)):
        error = ulps(found[:, order], want, size)
        worst = int(error.argmax())
        assert float(error[worst]) <= ALLOWED, (
            f"derivative {order} at {float(x[worst])}: {float(error[worst])} ulp"
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_double_precision(activation: str) -> None:
    x = sweep(400009).double() * (1 + 1e-9)
    x = x[x.abs() < 30]
    found = torch.tensor(_C.activation_float64(activation, x.tolist(), 0.25), dtype=torch.float64)
    for order, (want, size) in enumerate(zip(*truth(activation, x, 0.25), strict=True)):
        error = (found[:, order] - want).abs() / size.clamp(min=1e-290)  # below, the truth is flushed to zero
        assert float(error[x.abs() < 5].max()) <= 2e-14
        assert float(error.max()) <= 1e-12


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="activation is 'glu'"):
        _C.activation_float32("glu", [0.0], 0.01)
