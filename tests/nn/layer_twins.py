"""torch's layer and ours with equal weights, and everything that comes out of one call of either."""

import torch
from torch import Tensor, nn

import seo_kernels as sk

EMBED, HEADS, BATCH, QUERIES, KEYS = 12, 3, 2, 5, 7


def twins(
    dtype: torch.dtype = torch.float64, **config
) -> tuple[nn.MultiheadAttention, sk.nn.MultiheadAttention]:
    """A torch layer with random weights, biases included, and ours with its state_dict."""
    ours = {name: config.pop(name) for name in ("pattern", "relative") if name in config}
    theirs = nn.MultiheadAttention(EMBED, HEADS, dtype=dtype, **config)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    layer = sk.nn.MultiheadAttention(EMBED, HEADS, dtype=dtype, **config, **ours)
    layer.load_state_dict(theirs.state_dict(), strict="relative" not in ours)
    return theirs, layer


def inputs(
    layer: nn.MultiheadAttention,
    kind: str = "cross",
    batched: bool = True,
    queries: int = QUERIES,
    keys: int = KEYS,
) -> list[Tensor]:
    """query, key, value that ask for gradients: one tensor ("self"), key is value ("memory"), or three."""

    def tensor(length: int, dim: int) -> Tensor:
        shape = (length, dim)
        if batched:
            shape = (BATCH, length, dim) if layer.batch_first else (length, BATCH, dim)
        return torch.randn(shape, dtype=layer.out_proj.weight.dtype, requires_grad=True)

    query = tensor(queries, EMBED)
    if kind == "self":
        return [query, query, query]
    key = tensor(keys, layer.kdim)
    return [query, key, key if kind == "memory" else tensor(keys, layer.vdim)]


def outcome(
    layer: nn.Module, tensors: list[Tensor], extra: tuple[Tensor, ...] = (), **options
) -> dict[str, Tensor]:
    """Output, weights and every gradient (inputs, parameters, extra) of a fixed function of both."""
    out, weights = layer(*tensors, **options)
    results = {"out": out.detach()}
    loss = (out * torch.linspace(-1.0, 1.0, out.numel(), dtype=out.dtype).view_as(out)).sum()
    if weights is not None:
        results["weights"] = weights.detach()
        loss = (
            loss
            + (weights * torch.linspace(1.0, -2.0, weights.numel(), dtype=out.dtype).view_as(weights)).sum()
        )
    wanted = {f"d{name}": p for name, p in layer.named_parameters() if p.requires_grad}
    wanted |= {f"d{name}": t for name, t in zip(("query", "key", "value"), tensors, strict=True)}
    wanted |= {f"dextra{i}": t for i, t in enumerate(extra)}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
    return results | dict(zip(wanted, grads, strict=True))


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        torch.testing.assert_close(
            ours[name],
            expected,
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, name=name: f"{name}: {text}",
        )
