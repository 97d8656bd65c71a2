"""The page of the gradient flow: one file that loads nothing, with every number of the source."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seo_kernels.diagnostics.flow_page import flow_figure, flow_frames, write_flow_page
from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig, GradientAnalyzer
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.diagnostics.gradient_norms import gradient_norms

pytest.importorskip("plotly")


def results(scale: float = 1.0, **changes: Any) -> dict[str, Any]:
    flow = {
        "layers": ["first", "layers.0", "<head>"],
        "mean": [0.1 * scale, 0.2 * scale, 0.3 * scale],
        "max": [1.0 * scale, 2.0 * scale, 3.0 * scale],
        "norm": [4.0 * scale, 5.0 * scale, 6.0 * scale],
    }
    return {"loss": 0.5, "gradient_flow": flow | changes}


class Loaded(HTMLParser):
    """What the tags of a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [
            value or "" for name, value in attrs if name in ("src", "href") and value and ":" in value
        ]


def test_one_file_that_loads_nothing(tmp_path: Path) -> None:
    path = write_flow_page(tmp_path / "flow.html", [results(), results(2.0)], title="My <flow>")
    text = path.read_text()
    page = Loaded()
    page.feed(text)
    assert page.found == []
    assert "default-src &#x27;none&#x27;" in text  # nor may scripts
    assert "Plotly.newPlot" in text
    assert len(text) > 1_000_000  # plotly itself is in it
    assert "<title>My &lt;flow&gt;</title>" in text


def test_every_number_is_in_the_figure() -> None:
    figure = flow_figure(results())
    assert [trace.name for trace in figure.data][:3] == [
        "mean of |gradient|",
        "largest |gradient|",
        "L2 norm",
    ]
    assert list(figure.data[0].x) == ["first", "layers.0", "&lt;head&gt;"]
    assert [tuple(trace.y) for trace in figure.data[:3]] == [
        (0.1, 0.2, 0.3),
        (1.0, 2.0, 3.0),
        (4.0, 5.0, 6.0),
    ]
    assert figure.layout.yaxis.type == "log"
    assert not figure.frames
    assert not figure.layout.sliders


def test_a_slider_over_analyses() -> None:
    figure = flow_figure([results(0.01), results(), results(100.0)])
    (slider,) = figure.layout.sliders
    assert [step.label for step in slider.steps] == [f"analysis {n} of 3, loss 0.5" for n in (1, 2, 3)]
    assert [frame.name for frame in figure.frames] == [step.args[0][0] for step in slider.steps]
    assert tuple(figure.frames[0].data[2].y) == (0.04, 0.05, 0.06)
    assert tuple(figure.data[2].y) == tuple(figure.frames[2].data[2].y)  # the last is shown first
    low, high = figure.layout.yaxis.range
    assert low < math.log10(0.001) < math.log10(600.0) < high


@pytest.mark.parametrize(("value", "word"), [(0.0, "0"), (math.nan, "NaN"), (math.inf, "Inf")])
def test_what_a_logarithmic_axis_has_no_place_for_is_marked(value: float, word: str) -> None:
    figure = flow_figure(results(norm=[value, 1.0, 1.0]))
    assert figure.data[2].y[0] is None
    marks = figure.data[-1]
    assert marks.name == "zero, NaN or Inf"
    assert list(marks.x) == ["first"]
    assert list(marks.customdata) == [f"L2 norm: {word}"]
    assert all(math.isfinite(edge) for edge in figure.layout.yaxis.range)


def test_the_analyzer_and_the_monitor(tmp_path: Path) -> None:
    first = nn.Linear(3, 4)
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(4, 1))
    input, target = torch.randn(8, 3), torch.randn(8, 1)
    analyzer = GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False))
    monitor, norms = GradientMonitor(model), []
    for _ in range(3):
        analyzer.analyze_gradients(
            model=model, loss_function=nn.MSELoss(), input_data=input, target_data=target
        )
        model.zero_grad()
        with monitor:
            nn.functional.mse_loss(model(input), target).backward()
        norms.append(gradient_norms(model))
        with torch.no_grad():
            first.weight += 0.1
    assert flow_frames(analyzer.history)[-1].layers == ("0", "2")
    steps = flow_frames(monitor.history)
    assert [frame.label.split(",")[0] for frame in steps] == ["step 0", "step 1", "step 2"]
    for frame, expected in zip(steps, norms, strict=True):
        assert frame.layers == expected.names
        assert frame.curves["L2 norm"] == pytest.approx(expected.norms)
    (summary,) = flow_frames(monitor.get_gradient_summary())
    assert summary.label == "steps 0 to 2"
    assert summary.curves["norm, largest"][0] == pytest.approx(max(norm.norms[0] for norm in norms))
    sources: list[Any] = [analyzer.history, monitor.history, monitor.get_gradient_summary()]
    for number, source in enumerate(sources):
        assert write_flow_page(tmp_path / f"{number}.html", source).stat().st_size > 1_000_000


def test_a_long_history_is_thinned_out_and_says_so() -> None:
    figure = flow_figure([results() for _ in range(200)])
    labels = [step.label for step in figure.layout.sliders[0].steps]
    assert len(labels) == 50
    assert [re.findall(r"\d+", label)[0] for label in (labels[0], labels[-1])] == ["1", "200"]
    assert figure.layout.title.text == "50 of 200, evenly spaced"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], ValueError, "source tells of no gradient"),
        ({}, ValueError, "source tells of no gradient"),
        ([{"loss": 1.0}], ValueError, "source tells of no gradient"),
        (GradientMonitor(nn.Linear(2, 1)).history, ValueError, "source tells of no gradient"),
        (3, TypeError, "expected results of an analysis, a summary or a history"),
        ("flow", TypeError, "source holds"),
        ([3], TypeError, "source holds"),
    ],
)
def test_bad_input(source: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        write_flow_page(tmp_path / "flow.html", source)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="expected a file that can be written"):
        write_flow_page(tmp_path / "missing" / "flow.html", results())
