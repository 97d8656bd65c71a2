"""What sk.nn.MultiheadAttention adds to torch's: patterns, relative positions, and errors about either."""

import pytest
import torch
from nn.layer_twins import BATCH, EMBED, HEADS, assert_same, inputs, outcome, twins
from torch import Tensor

import seo_kernels as sk

LENGTH, DIM = 9, EMBED // HEADS
PATTERNS = [
    sk.Local(2) & sk.Causal(),
    sk.longformer(1, 2),
    sk.BlockSparse(torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 1]]).bool(), 3),
    sk.BlockSparse(torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 1]], [[0, 1], [1, 0]]]).bool(), 5),
]


def tables(**options: bool) -> sk.nn.RelativePositionTables:
    module = sk.nn.RelativePositionTables(2, DIM, HEADS, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS, ids=repr)
def test_a_pattern_is_a_mask(pattern: sk.Pattern, need_weights: bool) -> None:
    theirs, ours = twins(batch_first=True, pattern=pattern)
    tensors = inputs(theirs, "self", queries=LENGTH)
    hidden = ~pattern.dense_mask(LENGTH, LENGTH).expand(BATCH, HEADS, -1, -1)
    blind = hidden.all(
        -1
    )  # torch makes NaN of queries that see nothing: there they see all, and are not compared
    mask = (hidden & ~blind[..., None]).reshape(BATCH * HEADS, LENGTH, LENGTH)
    if not blind.any():
        call = {"need_weights": need_weights}
        assert_same(outcome(ours, tensors, **call), outcome(theirs, tensors, attn_mask=mask, **call))
    _, expected = theirs(*tensors, attn_mask=mask, average_attn_weights=False)
    _, weights = ours(*tensors, average_attn_weights=False)
    torch.testing.assert_close(weights, torch.where(blind[..., None], 0.0, expected))


@pytest.mark.parametrize("pattern", [None, sk.Local(2), sk.Local(1) | sk.GlobalTokens(1)], ids=repr)
@pytest.mark.parametrize("queries", [LENGTH, 4], ids=["self", "last queries"])
@pytest.mark.parametrize(
    "options",
    [{}, {"per_head": True, "value": False}, {"bias": True, "key": False}, {"bias": True, "alibi": True}],
    ids=str,
)
def test_relative_positions(options: dict, queries: int, pattern: sk.Pattern | None) -> None:
    """By the formula, written out; masks beside, gradients of the tables, with and without weights."""
    module = tables(**options)
    _, ours = twins(batch_first=True, pattern=pattern, relative=module)
    query, key, value = inputs(ours, "cross", queries=queries, keys=LENGTH)
    padding = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [7]])
    added = torch.randn(queries, LENGTH, dtype=torch.float64, requires_grad=True)
    call = {"key_padding_mask": padding, "attn_mask": added}

    def by_hand(*_args: Tensor, **_options: bool) -> tuple[Tensor, Tensor]:
        w_q, w_k, w_v = ours.in_proj_weight.chunk(3)
        b_q, b_k, b_v = ours.in_proj_bias.chunk(3)
        q, k, v = (
            (x @ w.T + b).view(BATCH, -1, HEADS, DIM).transpose(1, 2)
            for x, w, b in ((query, w_q, b_q), (key, w_k, b_k), (value, w_v, b_v))
        )
        distance = torch.arange(LENGTH) - torch.arange(LENGTH - queries, LENGTH)[:, None]
        row = distance.clamp(-2, 2) + 2
        k, v = k[:, :, None], v[:, :, None]  # (B, H, 1, Tk, D)
        if module.key is not None:
            k = k + (module.key[:, row] if options.get("per_head") else module.key[row])
        if module.value is not None:
            v = v + module.value[row]
        scores = (q[:, :, :, None] * k).sum(-1) / DIM**0.5
        if module.bias is not None:
            scores = scores + module.bias[:, row]
        if module.slopes is not None:
            scores = scores - module.slopes[:, None, None] * distance.abs()
        scores = scores + added
        seen = ~padding[:, None, None]
        if pattern is not None:
            seen = seen & pattern.dense_mask(queries, LENGTH)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out = (weights[..., None] * v).sum(-2)
        return ours.out_proj(out.transpose(1, 2).flatten(2)), weights

    class ByHand(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = ours
            self.forward = by_hand

    tensors = [query, key, value]
    expected = {n.replace("dlayer.", "d"): t for n, t in outcome(ByHand(), tensors, (added,)).items()}
    assert_same(outcome(ours, tensors, (added,), average_attn_weights=False, **call), expected)
    with_weights = outcome(ours, tensors, (added,), **call)
    torch.testing.assert_close(ours(*tensors, need_weights=False, **call)[0], with_weights["out"])


def test_gradients_of_the_tables_on_the_fused_way() -> None:
    _, ours = twins(pattern=sk.Local(3), relative=tables(bias=True))
    tensors = inputs(ours, "self", queries=LENGTH)
    fused, plain = outcome(ours, tensors, need_weights=False), {}
    out, _ = ours(*tensors, need_weights=True)
    loss = (out * torch.linspace(-1.0, 1.0, out.numel(), dtype=out.dtype).view_as(out)).sum()
    for name, parameter in ours.named_parameters():
        plain[f"d{name}"] = torch.autograd.grad(loss, parameter, retain_graph=True)[0]
    assert any("relative.bias" in name for name in plain)
    assert_same({name: fused[name] for name in plain}, plain)


@pytest.mark.parametrize("queries", [LENGTH, 4])
@pytest.mark.parametrize("relative", [False, True])
def test_is_causal_beside_a_pattern(relative: bool, queries: int) -> None:
    """The hint says no more than the mask that it is about."""
    options = {"relative": tables()} if relative else {}
    _, ours = twins(batch_first=True, pattern=sk.Local(3), **options)
    tensors = inputs(ours, "cross", queries=queries, keys=LENGTH)
    call = {"attn_mask": torch.ones(queries, LENGTH).triu(1).bool(), "need_weights": False}
    assert_same(outcome(ours, tensors, is_causal=True, **call), outcome(ours, tensors, **call))


def test_a_pattern_set_later_counts() -> None:
    _, ours = twins(batch_first=True)
    tensors = inputs(ours, "self", queries=LENGTH)
    ours.pattern = sk.Causal()
    assert ours.pattern == sk.Causal()
    _, weights = ours(*tensors)
    assert not weights.triu(1).any()
    causal = ours(*tensors, need_weights=False)[0]
    ours.pattern = None
    assert (ours(*tensors, need_weights=False)[0] - causal).abs().max() > 1e-3


def test_any_module_that_gives_tables() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = torch.nn.Parameter(torch.randn(3, DIM, dtype=torch.float64))

        def forward(self) -> sk.RelativePosition:
            return sk.RelativePosition(key=torch.cat([self.rows, self.rows[:2].flip(0)]))

    _, ours = twins(relative=Own())
    assert "relative.rows" in ours.state_dict()
    tensors = inputs(ours, "self")
    fused = outcome(ours, tensors, need_weights=False)
    assert fused["drelative.rows"].any()
    torch.testing.assert_close(fused["out"], outcome(ours, tensors)["out"])


@pytest.mark.parametrize("appended", ["add_bias_kv", "add_zero_attn"])
def test_appended_keys_stand_nowhere(appended: str) -> None:
    with pytest.raises(ValueError, match=r"pattern is Causal\(\) with add_bias_kv or add_zero_attn"):
        sk.nn.MultiheadAttention(EMBED, HEADS, **{appended: True}, pattern=sk.Causal())
    with pytest.raises(ValueError, match="relative is given with add_bias_kv or add_zero_attn"):
        sk.nn.MultiheadAttention(EMBED, HEADS, **{appended: True}, relative=tables())
    layer = sk.nn.MultiheadAttention(EMBED, HEADS, **{appended: True}, pattern=sk.Dense())
    with pytest.raises(ValueError, match="expected neither"):
        layer.pattern = sk.Local(1)


def test_refused_at_construction() -> None:
    def make(**options: object) -> sk.nn.MultiheadAttention:
        return sk.nn.MultiheadAttention(EMBED, HEADS, **options)

    with pytest.raises(TypeError, match=r"pattern is a Tensor, expected a pattern such as Causal\(\)"):
        make(pattern=torch.ones(3, 3).bool())
    with pytest.raises(TypeError, match="relative is a RelativePosition, expected a module"):
        make(relative=tables()())
    with pytest.raises(
        ValueError, match="relative is made for num_heads=2 and head_dim=4, expected num_heads=3"
    ):
        make(relative=sk.nn.RelativePositionTables(2, DIM, 2))
    with pytest.raises(ValueError, match=r"dropout is 1\.0, expected a number in \[0, 1\)"):
        make(dropout=1.0)
    with pytest.raises(ValueError, match="embed_dim // num_heads is 300, expected at most 256"):
        sk.nn.MultiheadAttention(600, 2)
    with pytest.raises(TypeError):
        make(unknown=1)


def test_a_layout_that_does_not_fit() -> None:
    _, ours = twins(batch_first=True, pattern=PATTERNS[2])
    tensors = inputs(ours, "self", queries=LENGTH + 1)
    for need_weights in (False, True):
        with pytest.raises(ValueError, match="pattern: the BlockSparse layout has shape"):
            ours(*tensors, need_weights=need_weights)
