"""Pictures of analyses: a panel for what is there, whatever the numbers are, whole or not at all."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from seo_kernels.diagnostics.analysis_pictures import analysis_picture, draw_analysis, panels_of

pytest.importorskip("matplotlib")
PNG = b"\x89PNG\r\n\x1a\n"
LAYERS = ["embedding", "layers.0.$x", "head"]


def results(**changes: Any) -> dict[str, Any]:
    return {
        "loss": 2.0,
        "gradient_norms": {"total": 3.0, "parameters": {"a": 1.0, "b": 2.0, "c": 2.0}},
        "gradient_angles": {"total": 0.3, "parameters": {"a": 0.3}},
        "gradient_correlation": {"layers": LAYERS, "matrix": [[1.0, 0.5, -0.5]] * 3, "note": "over 8 parts"},
        "gradient_flow": {"layers": LAYERS, "mean": [0.1] * 3, "max": [0.5] * 3, "norm": [1.0] * 3},
        "hessian": {"trace": 4.0, "trace_error": 0.1, "eigenvalues": [3.0, -1.0]},
    } | changes


def test_all_panels(tmp_path: Path) -> None:
    path = draw_analysis(tmp_path / "analysis.png", [results(), results()])
    assert path == tmp_path / "analysis.png"
    assert path.read_bytes().startswith(PNG)
    assert list(panels_of([results()])) == ["course", "angles", "norms", "flow", "correlation", "eigenvalues"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"gradient_angles": {"total": None, "parameters": {}}}, {"angles"}),
        (
            {"gradient_correlation": {"layers": LAYERS, "matrix": None, "note": "expected more rows"}},
            {"correlation"},
        ),
        ({"hessian": {"trace": 1.0, "trace_error": 0.0, "eigenvalues": []}}, {"eigenvalues"}),
        ({"gradient_norms": {"total": 0.0, "parameters": {}}}, {"norms"}),
        ({"gradient_flow": {"layers": [], "mean": [], "max": [], "norm": []}}, {"flow"}),
    ],
)
def test_panels_without_data_are_left_out(changes: dict[str, Any], missing: set[str]) -> None:
    everything = set(panels_of([results()]))
    assert everything - set(panels_of([results(**changes)])) == missing


def drawn(panel: str, history: list[dict[str, Any]]) -> Any:
    """The axes of one panel."""
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    panels_of(history)[panel](axes, history)
    return axes


def test_the_numbers_that_are_drawn() -> None:
    flow = {"layers": LAYERS, "mean": [0.1, 0.2, 0.3], "max": [1.0, 0.0, 3.0], "norm": [4.0, math.inf, 6.0]}
    axes = drawn("flow", [results(), results(gradient_flow=flow)])
    assert axes.get_yscale() == "log"
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["mean"].get_ydata()) == [0.1, 0.2, 0.3]
    assert list(lines["max"].get_ydata()) == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    assert list(lines["norm"].get_ydata()) == pytest.approx([4.0, math.nan, 6.0], nan_ok=True)
    assert list(lines["0, NaN or Inf"].get_xdata()) == [1]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["embedding", r"layers.0.\$x", "head"]
    course = drawn("course", [results(loss=loss, step=10 * n) for n, loss in enumerate([3.0, 2.0])])
    assert list(course.lines[0].get_ydata()) == [3.0, 2.0]
    assert list(course.lines[0].get_xdata()) == [0, 10]
    assert course.get_xlabel() == "step"
    heights = [bar.get_height() for bar in drawn("eigenvalues", [results()]).patches]
    assert heights == [3.0, -1.0]
    assert drawn("correlation", [results()]).images[0].get_array().tolist() == [[1.0, 0.5, -0.5]] * 3


def test_names_of_many_layers_are_thinned_out() -> None:
    norms = {f"layers.{n}.weight": 1.0 for n in range(500)}
    axes = drawn("norms", [results(gradient_norms={"total": 1.0, "parameters": norms})])
    assert len(axes.lines[0].get_ydata()) == 500
    assert len(axes.get_xticks()) <= 24


def test_the_loss_alone() -> None:
    assert list(panels_of([{"loss": 1.0}])) == ["course"]
    assert analysis_picture([{"loss": 1.0}]).startswith(PNG)


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of files that another test left open
@pytest.mark.parametrize("value", [0.0, math.nan, math.inf], ids=str)
def test_numbers_that_a_logarithmic_axis_has_no_place_for(value: float) -> None:
    broken = results(
        loss=value,
        gradient_norms={"total": value, "parameters": {"a": value}},
        gradient_flow={
            "layers": LAYERS,
            "mean": [value] * 3,
            "max": [value, 1.0, 1.0],
            "norm": [1.0, value, 1.0],
        },
        gradient_correlation={"layers": LAYERS, "matrix": [[value] * 3] * 3, "note": ""},
        hessian={"trace": value, "trace_error": value, "eigenvalues": [value]},
    )
    assert analysis_picture([broken, broken]).startswith(PNG)


def test_no_global_state_of_matplotlib() -> None:
    pyplot = sys.modules.get("matplotlib.pyplot")
    before = pyplot.get_fignums() if pyplot else []
    analysis_picture([results()])
    assert (sys.modules["matplotlib.pyplot"].get_fignums() if pyplot else []) == before


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ([], ValueError, "expected at least one analysis"),
        (results(), TypeError, "expected a sequence of analyses"),
        ([3], TypeError, "expected results of analyze_gradients"),
    ],
)
def test_bad_input(history: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        analysis_picture(history)


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"missing/analysis\.png, expected a file that can be written"):
        draw_analysis(tmp_path / "missing" / "analysis.png", [results()])
