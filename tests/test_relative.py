"""RelativePosition: what it accepts, and its life as a pytree."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils import _pytree as pytree

from seo_kernels.relative import RelativePosition


def test_absent_tables_are_none():
    assert RelativePosition().key is None
    assert repr(RelativePosition()) == "RelativePosition()"


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        (
            {"key": torch.zeros(4, 8)},
            ValueError,
            r"relative key has shape \(4, 8\), .* an odd number of rows",
        ),
        ({"value": torch.zeros(2, 4, 8)}, ValueError, r"relative value has shape \(2, 4, 8\)"),
        (
            {"bias": torch.zeros(2, 4)},
            ValueError,
            r"relative bias has shape \(2, 4\), expected \(heads, 2R \+ 1\)",
        ),
        ({"key": torch.zeros(5)}, ValueError, r"relative key has shape \(5,\), expected \(2R \+ 1, dim\)"),
        ({"bias": torch.zeros(5)}, ValueError, "relative bias"),
        (
            {"slopes": torch.zeros(2, 1)},
            ValueError,
            r"relative slopes has shape \(2, 1\), expected \(heads,\)",
        ),
        ({"key": torch.zeros(5, 8, dtype=torch.int64)}, TypeError, "relative key has dtype torch.int64"),
        ({"slopes": [1.0]}, TypeError, "relative slopes is a list, expected a floating point tensor"),
    ],
)
def test_bad_tables(tables, error, message):
    with pytest.raises(error, match=message):
        RelativePosition(**tables)


def test_is_a_pytree():
    tables = RelativePosition(key=torch.ones(3, 4), slopes=torch.ones(2))
    leaves, spec = pytree.tree_flatten({"relative": tables})
    assert leaves == [tables.key, tables.slopes]
    back = pytree.tree_unflatten(leaves, spec)["relative"]
    assert back.key is tables.key
    assert back.slopes is tables.slopes
    doubled = pytree.tree_map(lambda table: 2 * table, tables)
    assert torch.equal(doubled.key, 2 * tables.key)
    assert doubled.bias is None
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tables)[0]]
    assert paths == [".key", ".slopes"]
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def test_under_transforms():
    tables = RelativePosition(key=torch.rand(3, 4), bias=torch.rand(2, 3))

    def total(tables: RelativePosition) -> torch.Tensor:
        return tables.key.sum() + tables.bias.square().sum()

    stacked = pytree.tree_map(lambda table: torch.stack([table] * 5), tables)
    torch.testing.assert_close(torch.func.vmap(total)(stacked), total(tables).expand(5))
    gradient = torch.func.grad(total)(tables)
    assert torch.equal(gradient.bias, 2 * tables.bias)
    assert gradient.value is None


def test_copies_and_pickles():
    tables = RelativePosition(value=torch.rand(3, 4))
    for twin in (copy.deepcopy(tables), pickle.loads(pickle.dumps(tables))):
        assert torch.equal(twin.value, tables.value)
        assert twin.bias is None


def test_exported_as_an_argument():
    class Sum(torch.nn.Module):
        def forward(self, tables: RelativePosition) -> torch.Tensor:
            return tables.key.sum()

    tables = RelativePosition(key=torch.rand(3, 4))
    exported = torch.export.export(Sum(), (tables,))
    torch.testing.assert_close(exported.module()(tables), tables.key.sum())
