"""sk.nn.MultiheadAttention against torch's, whose place it takes: outputs, weights and all gradients."""

import pytest
import torch
from nn.layer_twins import BATCH, EMBED, HEADS, KEYS, QUERIES, assert_same, inputs, outcome, twins
from torch import nn

import seo_kernels as sk

CONFIGS = {
    "plain": {},
    "batch_first": {"batch_first": True},
    "no_bias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero_attn": {"add_zero_attn": True, "batch_first": True},
    "both_appended": {"add_bias_kv": True, "add_zero_attn": True},
    "kdim_vdim": {"kdim": 5, "vdim": 9},
    "kdim_no_bias": {"kdim": 5, "bias": False, "batch_first": True},
}


def masks(kind: str, batched: bool, dtype: torch.dtype, queries: int = QUERIES, keys: int = KEYS) -> dict:
    """key_padding_mask and attn_mask that leave every query at least its first key."""
    batch = BATCH if batched else 1
    padding = torch.rand(batch, keys) < 0.3
    hidden = torch.rand(batch * HEADS, queries, keys) < 0.3
    padding[:, 0] = False
    hidden[:, :, 0] = False
    as_float = {
        True: lambda t: torch.randn(t.shape, dtype=dtype).masked_fill(t, -torch.inf),
        False: lambda t: t,
    }
    found = {}
    if "padding" in kind:
        padding = as_float["float_padding" in kind](padding)
        found["key_padding_mask"] = padding if batched else padding[0]
    if "2d" in kind or "3d" in kind:
        found["attn_mask"] = as_float["float_attn" in kind](hidden if "3d" in kind else hidden[0])
    return found


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("config", CONFIGS)
def test_configurations(config: str, batched: bool, need_weights: bool) -> None:
    theirs, ours = twins(**CONFIGS[config])
    kinds = ("cross",) if "kdim" in config else ("self", "memory", "cross")
    for kind in kinds:
        tensors = inputs(theirs, kind, batched)
        options = masks(
            "padding 2d",
            batched,
            torch.float64,
            keys=tensors[1].shape[-2 if not batched or theirs.batch_first else 0],
        )
        for given in ({}, options):
            call = {"need_weights": need_weights, **given}
            assert_same(outcome(ours, tensors, **call), outcome(theirs, tensors, **call))


@pytest.mark.filterwarnings("ignore:Support for mismatched")  # torch's, about bool beside float
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("config", ["batch_first", "both_appended"])
@pytest.mark.parametrize(
    "kind",
    [
        "padding",
        "2d",
        "3d",
        "padding 3d",
        "float_padding",
        "2d float_attn",
        "3d float_attn",
        "float_padding 2d",
        "padding 3d float_attn",
        "float_padding 3d float_attn",
    ],
)
def test_masks(kind: str, config: str, batched: bool, need_weights: bool) -> None:
    theirs, ours = twins(**CONFIGS[config])
    tensors = inputs(theirs, "cross", batched)
    given = masks(kind, batched, torch.float64)
    extra = tuple(mask.requires_grad_() for mask in given.values() if mask.is_floating_point())
    call = {"need_weights": need_weights, **given}
    expected, got = outcome(theirs, tensors, extra, **call), outcome(ours, tensors, extra, **call)
    assert_same(got, expected)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("config", ["batch_first", "both_appended"])
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (4, 7), (7, 4)])
def test_is_causal(queries: int, keys: int, config: str, padded: bool, need_weights: bool) -> None:
    """Torch's own reading of the hint: from the first query and key, appended keys counted as the last."""
    theirs, ours = twins(**CONFIGS[config])
    tensors = inputs(theirs, "cross", queries=queries, keys=keys)
    call = {
        "attn_mask": torch.ones(queries, keys).triu(1).bool(),
        "is_causal": True,
        "need_weights": need_weights,
    }
    if padded:
        call["key_padding_mask"] = torch.arange(keys) >= torch.tensor([[3], [keys]])
    assert_same(outcome(ours, tensors, **call), outcome(theirs, tensors, **call))


def test_is_causal_is_a_hint_about_a_mask() -> None:
    theirs, ours = twins()
    tensors = inputs(theirs, "self")
    for layer in (theirs, ours):
        with pytest.raises(RuntimeError, match="attn_mask"):
            layer(*tensors, is_causal=True, need_weights=False)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_weights(batched: bool, average: bool) -> None:
    theirs, ours = twins(add_zero_attn=True)
    tensors = inputs(theirs, "cross", batched)
    call = {"need_weights": True, "average_attn_weights": average}
    assert_same(outcome(ours, tensors, **call), outcome(theirs, tensors, **call))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype) -> None:
    """Twice torch's own error, against float64; a trained layer's state_dict loads strictly."""
    theirs, ours = twins(dtype, batch_first=True)
    exact = nn.MultiheadAttention(EMBED, HEADS, batch_first=True, dtype=torch.float64)
    exact.load_state_dict(theirs.state_dict(), strict=True)
    tensors = inputs(theirs, "self", queries=33)
    double = tensors[0].detach().double().requires_grad_()
    for train in (True, False):
        want = outcome(exact.train(train), [double] * 3, need_weights=False)
        peer = outcome(theirs.train(train), tensors, need_weights=False)
        got = outcome(ours.train(train), tensors, need_weights=False)
        for name, value in want.items():
            bound = 2 * (peer[name].double() - value).abs().max() + torch.finfo(dtype).eps * value.abs().max()
            assert (got[name].double() - value).abs().max() <= bound, name


@pytest.mark.parametrize("need_weights", [False, True])
def test_empty_and_blind(need_weights: bool) -> None:
    theirs, ours = twins(batch_first=True)
    with torch.no_grad():
        for queries, keys in ((0, 3), (3, 3)):
            tensors = inputs(theirs, "cross", queries=queries, keys=keys)
            expected = theirs(*tensors, need_weights=need_weights)[0]
            torch.testing.assert_close(ours(*tensors, need_weights=need_weights)[0], expected)
        nothing = inputs(theirs, "cross", queries=3, keys=0)
        out, weights = ours(*nothing, need_weights=need_weights)
        torch.testing.assert_close(out, ours.out_proj.bias.expand(BATCH, 3, -1))
        assert weights is None or weights.shape == (BATCH, 3, 0)
    tensors = inputs(theirs, "self", queries=4)
    padding = torch.tensor([[True] * 4, [False] * 4])
    for given in (
        {"key_padding_mask": padding},
        {"key_padding_mask": torch.zeros(2, 4).double().masked_fill(padding, -torch.inf)},
        {"attn_mask": padding[:, None].expand(2, HEADS, 4).reshape(2 * HEADS, 1, 4).expand(-1, 4, 4)},
    ):
        with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
            results = outcome(ours, tensors, need_weights=need_weights, **given)
        torch.testing.assert_close(results["out"][0], ours.out_proj.bias.detach().expand(4, -1))
        assert all(value.isfinite().all() for value in results.values())
        assert not results["dquery"][0].any()


def test_non_contiguous_inputs() -> None:
    theirs, ours = twins(batch_first=True)
    query = torch.randn(EMBED, QUERIES, BATCH, dtype=torch.float64).permute(2, 1, 0).requires_grad_()
    assert_same(outcome(ours, [query] * 3), outcome(theirs, [query] * 3))


def test_from_torch_takes_the_parameters_over() -> None:
    for config in CONFIGS.values():
        theirs = nn.MultiheadAttention(EMBED, HEADS, dropout=0.25, dtype=torch.float64, **config).eval()
        theirs.out_proj.weight.requires_grad_(False)
        ours = sk.nn.MultiheadAttention.from_torch(theirs)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert {id(p) for p in ours.parameters()} == {id(p) for p in theirs.parameters()}
        assert ours.dropout == 0.25
        assert not ours.training
        tensors = inputs(theirs)
        assert_same(outcome(ours, tensors), outcome(theirs, tensors))


def test_from_torch_refuses_what_it_would_lose() -> None:
    class Other(nn.MultiheadAttention):
        pass

    with pytest.raises(TypeError, match=r"layer is a Other, expected a torch\.nn\.MultiheadAttention"):
        sk.nn.MultiheadAttention.from_torch(Other(4, 2))
    hooked = nn.MultiheadAttention(4, 2)
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="layer has forward or backward hooks"):
        sk.nn.MultiheadAttention.from_torch(hooked)


@pytest.mark.parametrize("need_weights", [False, True])
def test_an_out_proj_put_in_place_is_called(need_weights: bool) -> None:
    theirs, ours = twins()

    class Twice(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2.0 * super().forward(input)

    tensors = inputs(theirs)
    ours.out_proj = Twice(EMBED, EMBED, dtype=torch.float64)
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    call = {"need_weights": need_weights}
    torch.testing.assert_close(ours(*tensors, **call)[0], 2.0 * theirs(*tensors, **call)[0])
