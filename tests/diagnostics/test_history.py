"""History is bounded, and says what it has."""

import math

import pytest

from seo_kernels.diagnostics.findings import Finding
from seo_kernels.diagnostics.gradient_norms import GradientNorms
from seo_kernels.diagnostics.history import FindingLog, History


def norms(**values: float) -> GradientNorms:
    return GradientNorms(
        tuple(name.replace("_", ".") for name in values), tuple(values.values()), math.hypot(*values.values())
    )


def test_old_steps_go() -> None:
    history = History(maximum=3)
    for step in range(10):
        history.append(step, norms(a_w=float(step), a_b=1.0))
    assert len(history) == history.maximum == 3
    assert history.steps == [7, 8, 9]
    assert history.seen == 10
    assert history.of_parameter("a.w") == [7.0, 8.0, 9.0]
    assert history.of_module("a") == pytest.approx([math.hypot(n, 1.0) for n in (7, 8, 9)])
    assert history.of_module("") == history.totals


def test_names_are_kept_once() -> None:
    history = History()
    for step in range(5):
        history.append(step, norms(a_w=1.0))
    first, last = history._records[0], history._records[-1]
    assert first.names is last.names
    assert first.norms.itemsize * len(first.norms) == 8


def test_the_largest_stays_known_and_nan_is_no_largest() -> None:
    history = History(maximum=1)
    for step, value in enumerate((1.0, 5.0, math.inf, math.nan, 2.0)):
        history.append(step, norms(a_w=value))
    assert (history.largest_total, history.largest_step) == (5.0, 1)


def test_what_is_not_finite_is_counted_apart() -> None:
    history = History()
    for step, value in enumerate((1.0, math.nan, 3.0, math.inf)):
        history.append(step, norms(a_w=value))
    summary = history.by_parameter()["a.w"]
    assert (summary.steps, summary.mean, summary.min, summary.max, summary.nonfinite) == (4, 2.0, 1.0, 3.0, 2)
    assert summary.last == math.inf
    assert history.total().nonfinite == 2


def test_a_parameter_may_come_and_go() -> None:
    history = History()
    history.append(0, norms(a_w=1.0, b_w=2.0))
    history.append(1, norms(a_w=3.0))
    assert history.of_parameter("b.w")[0] == 2.0
    assert math.isnan(history.of_parameter("b.w")[1])
    assert history.of_modules() == {"a": 3.0}
    for ask in (history.of_parameter, history.of_module):
        with pytest.raises(KeyError, match="nowhere"):
            ask("nowhere")


def test_a_finding_that_lasts_is_one() -> None:
    log = FindingLog(maximum=2)
    for step in range(3):
        log.update([Finding("dead", "a.w", "a", step, 0.0)])
    assert [finding.step for finding in log.current] == [0]
    log.update([])
    assert log.current == []
    log.update([Finding("dead", "a.w", "a", 4, 0.0)])
    assert [finding.step for finding in log.all] == [0, 4]
    log.update([Finding("nan", "a.w", "a", 5, 1.0)])
    assert [finding.step for finding in log.all] == [4, 5]  # two are kept


@pytest.mark.parametrize("kept", [History, FindingLog])
def test_bad_input(kept: type) -> None:
    with pytest.raises(ValueError, match="maximum is 0, expected an int >= 1"):
        kept(0)
    with pytest.raises(TypeError, match="maximum is a float"):
        kept(1.5)
