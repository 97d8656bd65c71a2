"""TensorBoard's own reader finds what was written."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seo_kernels.diagnostics.findings import Finding
from seo_kernels.diagnostics.gradient_norms import GradientNorms, gradient_norms
from seo_kernels.diagnostics.tensorboard_writer import TensorBoardGradients

pytest.importorskip("tensorboard")
ANALYSIS = {
    "loss": 0.5,
    "gradient_norms": {"total": 3.0, "parameters": {}},
    "gradient_angles": {"total": 0.25, "parameters": {}},
    "gradient_flow": {"layers": ["0", "2"], "mean": [1.0, 2.0], "max": [3.0, 4.0], "norm": [5.0, 6.0]},
    "gradient_correlation": {"layers": ["0", "2"], "matrix": [[1.0, -0.5], [-0.5, 1.0]], "note": ""},
    "hessian": {"trace": 7.0, "trace_error": 0.0, "eigenvalues": [9.0, -2.0]},
}


def read(folder: Path) -> Any:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return events


def scalar(events: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    finding = Finding("dead", "1._bias_", "1", 4, 0.0)
    norms = []
    with TensorBoardGradients(tmp_path / "runs") as writer:
        for step in range(3):
            model.zero_grad()
            model(torch.randn(4, 3)).sum().backward()
            norms.append(gradient_norms(model))
            writer.write(step, norms=norms[-1], findings=[])
        writer.write(4, findings=[finding, finding], analysis=ANALYSIS)
    events = read(tmp_path / "runs")
    assert scalar(events, "gradient/total_norm") == [
        (step, pytest.approx(norm.total)) for step, norm in enumerate(norms)
    ]
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        expected = [(step, pytest.approx(norm.by_name()[name])) for step, norm in enumerate(norms)]
        assert scalar(events, f"gradient_norm/{name}") == expected
    assert scalar(events, "gradient/findings") == [(0, 0.0), (1, 0.0), (2, 0.0), (4, 2.0)]
    text = events.Tensors("findings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == f"    {finding}\n    {finding}"
    expected_numbers = {
        "analysis/loss": 0.5,
        "analysis/total_norm": 3.0,
        "analysis/angle": 0.25,
        "analysis/hessian_trace": 7.0,
        "hessian/eigenvalue_1": 9.0,
        "hessian/eigenvalue_2": -2.0,
        "flow_mean/0": 1.0,
        "flow_mean/2": 2.0,
        "flow_max/0": 3.0,
        "flow_max/2": 4.0,
        "flow_norm/0": 5.0,
        "flow_norm/2": 6.0,
    }
    assert {tag: scalar(events, tag) for tag in expected_numbers} == {
        tag: [(4, value)] for tag, value in expected_numbers.items()
    }
    (image,) = events.Images("correlation")
    assert (image.step, image.width, image.height) == (4, 256, 256)


def test_what_is_not_there_is_not_written(tmp_path: Path) -> None:
    with TensorBoardGradients(tmp_path) as writer:
        first = {
            "loss": 1.0,
            "gradient_angles": {"total": None, "parameters": {}},
            "gradient_correlation": {"layers": [], "matrix": None, "note": "few rows"},
        }
        writer.write(0, analysis=first)
        writer.flush()
        assert read(tmp_path).Tags()["scalars"] == ["analysis/loss"]
        assert read(tmp_path).Tags()["images"] == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"step": 1}, ValueError, "expected norms, findings or analysis"),
        ({"step": -1, "findings": []}, ValueError, "step is -1, expected an int >= 0"),
        ({"step": 1.5, "findings": []}, TypeError, "step is"),
        ({"step": 1, "norms": {"a": 1.0}}, TypeError, "expected GradientNorms"),
        ({"step": 1, "findings": "NaN"}, TypeError, "expected a sequence of findings"),
        ({"step": 1, "analysis": [1.0]}, TypeError, "expected the results of an analysis"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with TensorBoardGradients(tmp_path) as writer, pytest.raises(error, match=message):
        writer.write(**arguments)


def test_a_closed_writer(tmp_path: Path) -> None:
    writer = TensorBoardGradients(tmp_path)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="is closed"):
        writer.write(0, norms=GradientNorms(("a",), (1.0,), 1.0))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="which is a file, expected a folder"):
        TensorBoardGradients(tmp_path / "file")
    with pytest.raises(TypeError, match="expected the path of a folder"):
        TensorBoardGradients(3)  # type: ignore[arg-type]
