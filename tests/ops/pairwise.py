"""Few rows of a table that hold every pair of values of every two of its columns."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence


def pairwise(columns: Mapping[str, Sequence], seed: int = 0) -> list[dict]:
    """Rows (column: value) by greedy choice: each takes in as many new pairs as the best of some random rows.

    >>> len(pairwise({"a": [1, 2], "b": [1, 2], "c": [1, 2]}))
    4
    """
    names, dice = list(columns), random.Random(seed)
    missing = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i in range(len(columns[a]))
        for j in range(len(columns[b]))
    }

    def pairs(row: dict[str, int]) -> set:
        return {((a, row[a]), (b, row[b])) for a, b in itertools.combinations(names, 2)}

    rows = []
    while missing:
        must = dict(min(missing))
        candidates = [{name: dice.randrange(len(columns[name])) for name in names} | must for _ in range(50)]
        best = max(candidates, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        rows.append({name: columns[name][best[name]] for name in names})
    return rows
