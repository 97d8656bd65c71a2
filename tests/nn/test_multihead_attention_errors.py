"""What sk.nn.MultiheadAttention refuses: each error names the argument, what came and what was expected."""

import pytest
import torch

import seo_kernels as sk

SEQUENCE_FIRST = {
    (
        "query",
        (5, 2, 7),
    ): r"query has shape \(5, 2, 7\), expected \(length, batch, embed_dim=8\) or unbatched",
    ("query", (5, 2, 1, 8)): r"query has shape \(5, 2, 1, 8\), expected \(length, batch, embed_dim=8\)",
    ("query", (8,)): r"query has shape \(8\), expected \(length, batch, embed_dim=8\)",
    ("key", (6, 3, 4)): r"key has shape \(6, 3, 4\), expected \(length, batch=2, kdim=4\)",
    ("key", (6, 2, 8)): r"key has shape \(6, 2, 8\), expected \(length, batch=2, kdim=4\)",
    ("key", (6, 4)): r"key has shape \(6, 4\), expected \(length, batch=2, kdim=4\)",
    ("value", (5, 2, 8)): r"value has shape \(5, 2, 8\), expected \(length=6, batch=2, vdim=8\)",
    ("value", (6, 2, 4)): r"value has shape \(6, 2, 4\), expected \(length=6, batch=2, vdim=8\)",
    ("key_padding_mask", (6, 2)): r"key_padding_mask has shape \(6, 2\), expected \(batch=2, key length=6\)",
    ("key_padding_mask", (6,)): r"key_padding_mask has shape \(6\), expected \(batch=2, key length=6\)",
    (
        "attn_mask",
        (6, 5),
    ): r"attn_mask has shape \(6, 5\), expected \(query length=5, key length=6\) or \(batch \* "
    r"num_heads=4, query length=5, key length=6\)",
    ("attn_mask", (2, 5, 6)): r"attn_mask has shape \(2, 5, 6\)",
    ("attn_mask", (1, 1, 5, 6)): r"attn_mask has shape \(1, 1, 5, 6\)",
}


def call(layer: sk.nn.MultiheadAttention, batch_first: bool = False, **given: object) -> None:
    arguments = {"query": torch.randn(5, 2, 8), "key": torch.randn(6, 2, 4), "value": torch.randn(6, 2, 8)}
    if batch_first:
        arguments = {name: tensor.transpose(0, 1) for name, tensor in arguments.items()}
    layer(**{**arguments, **given})


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize(("name", "shape"), SEQUENCE_FIRST)
def test_shapes(name: str, shape: tuple[int, ...], need_weights: bool) -> None:
    layer = sk.nn.MultiheadAttention(8, 2, kdim=4)
    given = torch.zeros(shape, dtype=torch.bool) if "mask" in name else torch.zeros(shape)
    with pytest.raises(ValueError, match=SEQUENCE_FIRST[name, shape]):
        call(layer, need_weights=need_weights, **{name: given})


def test_shapes_batch_first_and_unbatched() -> None:
    layer = sk.nn.MultiheadAttention(8, 2, kdim=4, batch_first=True)
    call(layer, batch_first=True)
    with pytest.raises(
        ValueError, match=r"query has shape \(2, 5, 9\), expected \(batch, length, embed_dim=8\)"
    ):
        call(layer, batch_first=True, query=torch.zeros(2, 5, 9))
    with pytest.raises(ValueError, match=r"key has shape \(3, 6, 4\), expected \(batch=2, length, kdim=4\)"):
        call(layer, batch_first=True, key=torch.zeros(3, 6, 4))
    with pytest.raises(
        ValueError, match=r"value has shape \(2, 7, 8\), expected \(batch=2, length=6, vdim=8\)"
    ):
        call(layer, batch_first=True, value=torch.zeros(2, 7, 8))
    query, key, value = torch.zeros(5, 8), torch.zeros(6, 4), torch.zeros(6, 8)
    with pytest.raises(ValueError, match=r"key has shape \(6, 2, 4\), expected \(length, kdim=4\)"):
        layer(query, torch.zeros(6, 2, 4), value)
    with pytest.raises(ValueError, match=r"value has shape \(5, 8\), expected \(length=6, vdim=8\)"):
        layer(query, key, torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(1, 6\), expected \(key length=6,\)"):
        layer(query, key, value, key_padding_mask=torch.zeros(1, 6).bool())


@pytest.mark.parametrize("name", ["key_padding_mask", "attn_mask"])
def test_mask_dtypes(name: str) -> None:
    layer = sk.nn.MultiheadAttention(8, 2, kdim=4)
    shape = (2, 6) if name == "key_padding_mask" else (5, 6)
    with pytest.raises(TypeError, match=rf"{name} has dtype torch.int64, expected torch.bool \(True: hide\)"):
        call(layer, **{name: torch.zeros(shape, dtype=torch.int64)})
    with pytest.raises(TypeError, match=f"{name} is a list, expected a tensor or None"):
        call(layer, **{name: [[False]]})


@pytest.mark.parametrize(("name", "shape"), [("query", (5, 2, 8)), ("key", (6, 2, 4)), ("value", (6, 2, 8))])
def test_dtypes_and_devices(name: str, shape: tuple[int, ...]) -> None:
    layer = sk.nn.MultiheadAttention(8, 2, kdim=4)
    for dtype in (torch.float64, torch.int64, torch.bool):
        with pytest.raises(TypeError, match=f"{name} has dtype {dtype}, expected the weights' torch.float32"):
            call(layer, **{name: torch.zeros(shape, dtype=dtype)})
    with torch.autocast("cpu", torch.bfloat16):  # which casts neither
        for dtype in (torch.int64, torch.float64):
            with pytest.raises(TypeError, match=f"{name} has dtype {dtype}"):
                call(layer, **{name: torch.zeros(shape, dtype=dtype)})
        call(layer, **{name: torch.zeros(shape, dtype=torch.bfloat16)})
    with pytest.raises(ValueError, match=f"{name} is on meta, expected the weights' device cpu"):
        call(layer, **{name: torch.zeros(shape, device="meta")})
    with pytest.raises(TypeError, match=f"{name} is a list, expected a tensor"):
        call(layer, **{name: [1.0]})
