"""The attention core of the documented layers: four types, masks, errors, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seo_kernels import _library
from seo_kernels.nn.typed_attention import ATTENTION_TYPES, TypedAttention, attention_pattern
from seo_kernels.patterns import Causal, Dense, Local, Strided

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
BATCH, LENGTH, WIDTH, HEADS, REACH = 2, 11, 12, 3, 2
pytestmark = pytest.mark.usefixtures("one_thread")


def layer(attention_type: str, **options: object) -> TypedAttention:
    return TypedAttention(WIDTH, HEADS, 0.0, attention_type, REACH, **options).double()


def visible(attention_type: str, causal: bool) -> Tensor:
    """Who sees whom, (LENGTH, LENGTH), from the words of the documentation."""
    distance = torch.arange(LENGTH) - torch.arange(LENGTH)[:, None]
    near = distance.abs() <= REACH
    seen = {"local": near, "sparse": near | (distance % REACH == 0)}.get(attention_type, near | True)
    return seen & (distance <= 0) if causal else seen


def plain(module: TypedAttention, x: Tensor, mask: Tensor | None, seen: Tensor) -> Tensor:
    """Shaw et al. 2018, eq. 3 and 4, with tensors (B, H, S, S) and (S, S, D)."""
    q, k, v = (
        w(x).view(BATCH, LENGTH, HEADS, -1).transpose(1, 2) for w in (module.w_q, module.w_k, module.w_v)
    )
    distance = (torch.arange(LENGTH) - torch.arange(LENGTH)[:, None]).clamp(-REACH, REACH) + REACH
    scores = q @ k.mT
    if module.relative is not None:
        scores = scores + torch.einsum("bhid,ijd->bhij", q, module.relative.key[distance])
    if mask is not None:
        seen = seen & (mask != 0)[:, None, None if mask.dim() == 2 else slice(None)]
    scores = (scores / (WIDTH // HEADS) ** 0.5).masked_fill(~seen, float("-inf"))
    weights = scores.softmax(-1).nan_to_num()
    out = weights @ v
    if module.relative is not None:
        out = out + torch.einsum("bhij,ijd->bhid", weights, module.relative.value[distance])
    return module.w_o(out.transpose(1, 2).flatten(2))


PADDING = (torch.arange(LENGTH) < torch.tensor([[7], [LENGTH]])).double()
PAIRS = (torch.rand(BATCH, LENGTH, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.5).long()


@pytest.mark.parametrize(
    "mask", [None, PADDING, PAIRS.bool(), PAIRS.float()], ids=["none", "padding", "bool", "pairs"]
)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_against_plain_torch(attention_type: str, causal: bool, mask: Tensor | None) -> None:
    module = layer(attention_type, causal=causal)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
    wanted = (x, *module.parameters())
    out = module(x, mask)
    expected = plain(module, x, mask, visible(attention_type, causal))
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad((out * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_pattern_is_the_documented_one(attention_type: str) -> None:
    for causal in (False, True):
        mask = layer(attention_type, causal=causal).pattern.dense_mask(LENGTH, LENGTH)[0]
        assert torch.equal(mask, visible(attention_type, causal))


def test_patterns_are_as_simple_as_can_be() -> None:
    assert attention_pattern("relative", 5) == Dense()
    assert attention_pattern("standard", 5, causal=True) == Causal()
    assert attention_pattern("local", 5) == Local(5)
    assert attention_pattern("sparse", 5) == (Local(5) | Strided(5))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.bfloat16])
def test_a_mask_means_the_same_in_every_dtype(dtype: torch.dtype) -> None:
    module = layer("relative")
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    for mask in (PADDING, PAIRS):
        assert torch.equal(module(x, mask.to(dtype)), module(x, mask.bool()))
    hidden = module(x, torch.zeros(BATCH, LENGTH, dtype=dtype))
    torch.testing.assert_close(hidden, module.w_o.bias.expand_as(hidden))


def test_rank_alone_tells_masks_apart() -> None:
    """A batch as large as the sequence: (B, S) and (S, S) have one shape."""
    module = layer("standard")
    x = torch.randn(3, 3, WIDTH, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    torch.testing.assert_close(module(x, mask)[0], module(x[:1, :1])[0].expand(3, -1))
    assert torch.equal(module(x, mask), module(x, mask[:, None].expand(-1, 3, -1)))


def test_attend_to_another_sequence() -> None:
    module = layer("standard")
    query = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    key = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    torch.testing.assert_close(
        module.attend(query, key, key, mask), module.attend(query, key[:, :3], key[:, :3], None)
    )
    with pytest.raises(
        ValueError, match=r"mask has shape \(2, 3\), expected \(batch=2, length=5\) or \(batch=2, 3, 5\)"
    ):
        module.attend(query, key, key, mask[:, :3])


def test_dropout_only_while_training() -> None:
    module = TypedAttention(WIDTH, HEADS, 0.5)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


@native
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_scripted(attention_type: str) -> None:
    module = layer(attention_type)
    scripted = torch.jit.script(module)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    for mask in (None, PADDING, PAIRS):
        torch.testing.assert_close(scripted(x, mask), module(x, mask))
    with pytest.raises(torch.jit.Error, match="mask holds"):
        scripted(x, PADDING * 2)


def test_recipes_find_the_projections() -> None:
    module = layer("relative")
    linears = {name for name, part in module.named_children() if isinstance(part, nn.Linear)}
    assert linears == {"w_q", "w_k", "w_v", "w_o"}
    assert "attention_type='relative'" in repr(module)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((10, 3), ValueError, "d_model is 10 for n_heads=3, expected a multiple of it, at most 256 times"),
        ((1028, 2), ValueError, "d_model is 1028 for n_heads=2"),
        (
            (12, 3, 0.1, "flash"),
            ValueError,
            "attention_type is 'flash', expected one of standard, relative, local",
        ),
        ((12, 3, 0.1, "sparse", 0), ValueError, "max_relative_position is 0, expected an int >= 1"),
        ((12, 3, 0.1, "local", -1), ValueError, "max_relative_position is -1, expected an int >= 0"),
        ((12, True), TypeError, "n_heads is a bool"),
    ],
)
def test_arguments_that_do_not_fit(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TypedAttention(*arguments)


def test_inputs_that_do_not_fit() -> None:
    module = TypedAttention(WIDTH, HEADS)
    with pytest.raises(ValueError, match=r"x has shape \(2, 11, 5\), expected \(batch, length, d_model=12\)"):
        module(torch.randn(2, 11, 5))
    with pytest.raises(TypeError, match="x has dtype torch"):
        module(torch.ones(2, 11, 12, dtype=torch.int64))
    with pytest.raises(TypeError, match="x is a list"):
        module([1.0])
