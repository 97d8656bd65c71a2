"""sk.attention inside training: autocast, mixed dtypes, checkpointing, determinism, memory, data parallel."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ops.everything import DIFFERENTIABLE, call, everything, integers
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
TABLES = DIFFERENTIABLE[3:]


def number_of(tensors: dict[str, Tensor], **options: object) -> Tensor:
    out, lse = call(tensors, **options)  # type: ignore[arg-type]
    return out.float().sin().sum() + torch.where(lse == -torch.inf, 0.0, lse.cos()).sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("table_dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tables_of_another_dtype(dtype: torch.dtype, table_dtype: torch.dtype) -> None:
    """Gradients come in the dtype of their argument, in second order too, as exact as it allows."""
    tensors = everything(2, 2, 2, 9, 11, dim=8, value_dim=8, dtype=torch.float32)
    mixed = {
        name: tensor.detach().to(table_dtype if name in TABLES else dtype).requires_grad_()
        for name, tensor in tensors.items()
    }
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in mixed.items()}
    results = []
    for case in (mixed, exact):
        first = torch.autograd.grad(number_of(case), tuple(case.values()), create_graph=True)
        penalty = sum(gradient.double().square().sum() for gradient in first)
        results.append((first, torch.autograd.grad(penalty, tuple(case.values()))))
    for tested, expected in zip(*results, strict=True):
        for name, one, other in zip(mixed, tested, expected, strict=True):
            assert one.dtype == mixed[name].dtype, name
            eps = max(torch.finfo(dtype).eps, torch.finfo(table_dtype).eps)
            assert (one - other).norm() <= 2 * eps * other.norm(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    tensors = everything(2, dim=8, value_dim=8, dtype=torch.float32)
    leaves = tuple(tensors.values())
    with torch.autocast("cpu", dtype):
        out, lse = call(tensors)
        inside = torch.autograd.grad(out.float().sin().sum() + lse.sum(), leaves, retain_graph=True)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    outside = torch.autograd.grad(out.float().sin().sum() + lse.sum(), leaves)
    cast = {name: t if name in TABLES else t.to(dtype) for name, t in tensors.items()}
    out, lse = call(cast)
    expected = torch.autograd.grad(out.float().sin().sum() + lse.sum(), leaves)
    for gradients in (inside, outside):
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        torch.testing.assert_close(gradients, expected, rtol=0, atol=0)


def test_derivatives_in_plain_torch_ignore_autocast() -> None:
    """Double backward and forward mode keep their precision where an autocast region is open."""
    tensors = everything(dtype=torch.float32)
    leaves = tuple(tensors.values())
    results = []
    for enabled in (False, True):
        number = number_of(tensors)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            first = torch.autograd.grad(number, leaves, create_graph=True)
            results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_drops_the_same(use_reentrant: bool) -> None:
    """Recomputing draws the same seed: gradients as without, in several layers."""
    tensors = everything(2, 2, 2, 20, 20, dim=4, value_dim=4)
    leaves = tuple(tensors.values())

    def layer(query: Tensor, key: Tensor) -> Tensor:
        return call(tensors | {"query": query, "key": key}, dropout_p=0.4)[0].sin()

    gradients = []
    for with_checkpoint in (False, True):
        torch.manual_seed(2)
        hidden = tensors["query"]
        for _ in range(3):
            if with_checkpoint:
                hidden = checkpoint(layer, hidden, tensors["key"], use_reentrant=use_reentrant)
            else:
                hidden = layer(hidden, tensors["key"])
        for leaf in leaves:
            leaf.grad = None
        hidden.sum().backward()  # a reentrant checkpoint knows no torch.autograd.grad
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_dropout_follows_torchs_generator() -> None:
    tensors = everything(2, 2, 2, 20, 20)
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = call(tensors, dropout_p=0.5)[0], call(tensors, dropout_p=0.5)[0]
        torch.manual_seed(0)
        again = call(tensors, dropout_p=0.5)[0]
        state = torch.get_rng_state()
        call(tensors)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())  # no dropout, no draw


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # and fills what is allocated with NaN
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
def test_deterministic_algorithms() -> None:
    """No error of torch's, and bitwise equal results: every order and mode."""
    tensors = everything(2, 2, 1, 130, 140, dim=4)
    tensors |= integers(tensors)
    leaves = tuple(tensor for tensor in tensors.values() if tensor.requires_grad)
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        first = torch.autograd.grad(number_of(tensors, dropout_p=0.3), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append((*first, *second))
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert all(bool(gradient.isfinite().all()) for gradient in results[0])


@native
def test_what_is_kept_for_backward() -> None:
    """With gradients: the arguments, out and lse, nothing of size Tq x Tk; without: nothing at all."""
    tensors = everything(2, query_length=50, key_length=60)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out, lse = call(tensors, dropout_p=0.1)
        own = {tensor.data_ptr() for tensor in (*tensors.values(), out, lse)}
        others = [tensor for tensor in kept if tensor.data_ptr() not in own]
        assert [tensor.shape for tensor in others] == [torch.Size([])]  # the seed
        kept.clear()
        with torch.no_grad():
            out, lse = call(tensors, dropout_p=0.1)
        assert out.grad_fn is None
        assert not out.requires_grad
        call({name: tensor.detach() for name, tensor in tensors.items()})
    assert kept == []


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_nothing_outlives_its_use(needs_gradient: bool) -> None:
    query = torch.randn(1, 2, 8, 4).requires_grad_(needs_gradient)
    key = torch.randn(1, 2, 8, 4)
    references = [weakref.ref(query), weakref.ref(key)]
    out = sk.attention(query, key, key)
    if needs_gradient:
        out.sum().backward()
        del out
    del query, key
    gc.collect()
    assert [reference() for reference in references] == [None, None]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = torch.nn.Linear(8, 24)
        self.bias = torch.nn.Parameter(torch.randn(2, 7))

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = self.projection(hidden).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        relative = sk.RelativePosition(bias=self.bias)
        return (
            sk.attention(query, key, value, pattern=sk.Local(3), relative=relative).transpose(1, 2).flatten(2)
        )


@pytest.fixture
def _one_process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("_one_process_group")
def test_distributed_data_parallel() -> None:
    plain, hidden = Block(), torch.randn(2, 9, 8)
    parallel = torch.nn.parallel.DistributedDataParallel(plain)
    gradients = []
    for module in (plain, parallel):
        plain.zero_grad()
        module(hidden).sin().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in plain.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("_one_process_group")
def test_fully_sharded_data_parallel() -> None:
    from torch.distributed.fsdp import fully_shard

    plain, hidden = Block(), torch.randn(2, 9, 8)
    sharded = Block()
    sharded.load_state_dict(plain.state_dict())
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    fully_shard(sharded, mesh=mesh)
    for module in (plain, sharded):
        module(hidden).sin().sum().backward()
    for parameter, shard in zip(plain.parameters(), sharded.parameters(), strict=True):
        torch.testing.assert_close(shard.grad.full_tensor(), parameter.grad)
