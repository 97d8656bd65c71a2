"""sk.nn.RelativePositionTables: the module that learns the tables."""

import copy
import io

import pytest
import torch
from torch.utils._pytree import tree_leaves

import seo_kernels as sk
from seo_kernels.nn.relative import alibi_slopes


def test_shapes_and_names() -> None:
    tables = sk.nn.RelativePositionTables(3, 8, 2, bias=True, alibi=True, per_head=True, dtype=torch.float64)
    relative = tables()
    assert isinstance(relative, sk.RelativePosition)
    shapes = [tuple(table.shape) for table in tree_leaves(relative)]
    assert shapes == [(2, 7, 8), (2, 7, 8), (2, 7), (2,)]
    assert all(table.dtype == torch.float64 for table in tree_leaves(relative))
    assert list(tables.state_dict()) == ["key", "value", "bias"]
    assert relative.key is tables.key
    assert not relative.bias.any()
    assert "key=(2, 7, 8)" in repr(tables)

    shared = sk.nn.RelativePositionTables(3, 8, 2, value=False)
    assert list(shared.state_dict()) == ["key"]
    assert shared.key.shape == (7, 8)
    assert shared().value is None


def test_start_values_follow_the_seed() -> None:
    tables = sk.nn.RelativePositionTables(500, 64, 2)
    assert 0.0195 < tables.key.std() < 0.0205
    other = copy.deepcopy(tables)
    for module in (tables, other):
        torch.manual_seed(3)
        module.reset_parameters()
    assert torch.equal(tables.value, other.value)


def test_alibi_slopes_are_the_paper_s() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(1) == [2.0**-8]
    # 12 heads: those of 8, then the first, third, fifth and seventh of 16
    assert alibi_slopes(12) == [2.0**-i for i in range(1, 9)] + [2.0 ** -(i / 2) for i in (1, 3, 5, 7)]
    tables = sk.nn.RelativePositionTables(0, 8, 12, key=False, value=False, alibi=True)
    assert torch.equal(tables().slopes, torch.tensor(alibi_slopes(12)))
    assert not list(tables.parameters())


def test_meta_then_materialised() -> None:
    tables = sk.nn.RelativePositionTables(2, 8, 4, alibi=True, device="meta")
    tables.to_empty(device="cpu").reset_parameters()
    assert torch.equal(tables.slopes, torch.tensor(alibi_slopes(4)))
    assert tables.key.abs().max() < 1.0


def test_state_dict_round_trip() -> None:
    tables = sk.nn.RelativePositionTables(2, 8, 4, bias=True, alibi=True)
    torch.nn.init.normal_(tables.bias)
    buffer = io.BytesIO()
    torch.save(tables.state_dict(), buffer)
    buffer.seek(0)
    other = sk.nn.RelativePositionTables(2, 8, 4, bias=True, alibi=True)
    other.load_state_dict(torch.load(buffer), strict=True)
    for mine, theirs in zip(tree_leaves(tables()), tree_leaves(other()), strict=True):
        assert torch.equal(mine, theirs)


def test_refused() -> None:
    with pytest.raises(ValueError, match="max_distance is -1, expected an int >= 0"):
        sk.nn.RelativePositionTables(-1, 8, 2)
    with pytest.raises(TypeError, match=r"head_dim is 8\.0 \(float\), expected an int >= 1"):
        sk.nn.RelativePositionTables(1, 8.0, 2)
    with pytest.raises(TypeError, match=r"num_heads is True \(bool\)"):
        sk.nn.RelativePositionTables(1, 8, True)
    with pytest.raises(ValueError, match="expected at least one table"):
        sk.nn.RelativePositionTables(1, 8, 2, key=False, value=False)
    with pytest.raises(ValueError, match="per_head is True without a key or value table"):
        sk.nn.RelativePositionTables(1, 8, 2, key=False, value=False, bias=True, per_head=True)
