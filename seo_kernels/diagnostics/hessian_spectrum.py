"""What the Hessian of a loss is like without the Hessian: its trace and its largest eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seo_kernels._extras import require
from seo_kernels.diagnostics.curvature import gradient_graph, graph_product, split_like, twice_differentiated
from seo_kernels.diagnostics.undisturbed import check_scalar_loss, trainable_parameters
from seo_kernels.nn.sizes import check_size

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class HessianSpectrum:
    """Of the Hessian by all trainable parameters.

    Attributes:
        trace: its sum of eigenvalues, estimated; exact where there are no more parameters than samples.
        trace_error: standard error of the estimate.
        eigenvalues: those of the largest magnitude, the largest first, with their signs.
    """

    trace: float
    trace_error: float
    eigenvalues: tuple[float, ...]


def hessian_spectrum(
    model: nn.Module, loss: Tensor, *, eigenvalues: int = 3, samples: int = 10, seed: int = 0
) -> HessianSpectrum:
    """Trace and top eigenvalues, from products with vectors alone.

    The trace by Hutchinson's estimator with random signs (Hutchinson 1990), the eigenvalues by the restarted
    Lanczos method (Lehoucq et al. 1998, ARPACK, through scipy), in the precision of the model.

    Args:
        model: its trainable parameters are those of the Hessian.
        loss: a scalar, of a forward pass in eager mode. Its graph stays until the loss is dropped.
        eigenvalues: how many; all where there are no more parameters. 0: none.
        samples: random vectors for the trace, at least 2.
        seed: of those vectors and of where Lanczos begins.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range, a loss that is no scalar.
        SecondDerivativeError: an operation of the model can't be differentiated twice.
        MissingExtraError: scipy is not installed.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> loss = model(torch.diag(torch.tensor([1.0, 3.0]))).square().sum()  # H = diag(2, 18)
    >>> spectrum = hessian_spectrum(model, loss, eigenvalues=1)
    >>> round(spectrum.trace, 4), round(spectrum.eigenvalues[0], 4)
    (20.0, 18.0)
    """
    check_size("eigenvalues", eigenvalues, least=0)
    check_size("samples", samples, least=2)
    check_size("seed", seed, least=0)
    parameters = list(trainable_parameters(model).values())
    loss = check_scalar_loss(loss)
    gradients = twice_differentiated(lambda: gradient_graph(loss, parameters))

    def product(vector: Tensor) -> Tensor:
        parts = split_like(vector, parameters)
        found = twice_differentiated(lambda: graph_product(gradients, parameters, parts))
        return torch.cat([part.reshape(-1).double().cpu() for part in found])

    count = sum(parameter.numel() for parameter in parameters)
    generator = torch.Generator().manual_seed(seed)
    trace, error = _trace(product, count, samples, generator)
    return HessianSpectrum(trace, error, _eigenvalues(product, count, eigenvalues, generator))


def _trace(product: Product, count: int, samples: int, generator: torch.Generator) -> tuple[float, float]:
    if count <= samples:
        return _dense(product, count).diagonal().sum().item(), 0.0
    values = []
    for _ in range(samples):
        signs = torch.randint(0, 2, (count,), generator=generator, dtype=torch.float64) * 2 - 1
        values.append(signs.dot(product(signs)))
    found = torch.stack(values)
    return found.mean().item(), (found.std() / math.sqrt(samples)).item()


def _eigenvalues(product: Product, count: int, wanted: int, generator: torch.Generator) -> tuple[float, ...]:
    if wanted == 0:
        return ()
    if count <= max(wanted + 1, 8):  # Lanczos needs more dimensions than eigenvalues
        matrix = _dense(product, count)
        found = torch.linalg.eigvalsh((matrix + matrix.mT) / 2).tolist()
    else:
        linalg = require("scipy.sparse.linalg", extra="diagnostics", purpose="find the Hessian's eigenvalues")
        operator = linalg.LinearOperator(
            (count, count),
            lambda vector: product(torch.from_numpy(vector.reshape(-1))).numpy(),
            dtype="float64",
        )
        begin = torch.randn(count, generator=generator, dtype=torch.float64).numpy()
        try:
            found = linalg.eigsh(
                operator, k=wanted, which="LM", v0=begin, tol=1e-6, return_eigenvectors=False
            ).tolist()
        except linalg.ArpackNoConvergence as error:
            found = error.eigenvalues.tolist()
            if len(found) < wanted:
                raise ValueError(
                    f"only {len(found)} of {wanted} eigenvalues converged: ask for fewer, or give the model "
                    "in float64"
                ) from error
        except linalg.ArpackError as error:  # NaN or Inf in a product; or a Hessian of zeros
            if not torch.count_nonzero(product(torch.from_numpy(begin))):
                return (0.0,) * wanted
            raise ValueError(f"the Hessian's products give no eigenvalues: {error}") from error
    return tuple(sorted(found, key=abs, reverse=True)[:wanted])


def _dense(product: Product, count: int) -> Tensor:
    return torch.stack([product(row) for row in torch.eye(count, dtype=torch.float64)])
