"""A module from all sides: what is wrong is found, the module itself stays as it was."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.module_diagnosis import diagnose_module
from seo_kernels.diagnostics.module_factory import FactoryError, module_under_test
from seo_kernels.diagnostics.module_report import module_page, summary_lines, write_module_report

for package in ("matplotlib", "plotly", "scipy"):
    pytest.importorskip(package)


@pytest.fixture(autouse=True)
def _tiny(one_thread: None) -> None:
    """Threads would only wait for each other."""


class Late(nn.Module):
    """Gives NaN from its fourth pass in training on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.broken, self.passes = nn.Linear(3, 4), nn.Linear(4, 2), 0

    def forward(self, input: Tensor) -> Tensor:
        self.passes += 1
        out: Tensor = self.broken(self.inner(input))
        return out * float("nan") if self.passes > 3 else out


class Once(torch.autograd.Function):
    """Not differentiable twice."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        return input.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class OnceModel(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = Once.apply(super().forward(input))
        return out.sin()


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 2))


def made(model: nn.Module, rows: int = 8) -> Any:
    return module_under_test("mine:<made>", (model, torch.randn(rows, 3), torch.randn(rows, 2), nn.MSELoss()))


def test_a_sound_module(tmp_path: Path) -> None:
    module = made(small())
    before = copy.deepcopy(module.model.state_dict())
    state = torch.get_rng_state()
    told: list[str] = []
    diagnosis = diagnose_module(module, steps=8, learning_rate=0.01, progress=told.append)
    assert diagnosis.passed
    assert told == [
        *(f"step {n} of 8" for n in range(1, 9)),
        "correlation and curvature",
        "finite differences",
    ]
    assert diagnosis.losses[-1] < diagnosis.losses[0]
    assert [results["step"] for results in diagnosis.analyses] == [0, 2, 4, 6, 8]
    assert diagnosis.missing_analyses == []
    assert {"gradient_correlation", "hessian", "gradient_flow"} <= set(diagnosis.analyses[-1])
    assert diagnosis.history.steps == list(range(8))  # analyses are no steps
    torch.testing.assert_close(dict(module.model.state_dict()), dict(before), rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in module.model.parameters())
    assert torch.equal(torch.get_rng_state(), state)

    path = write_module_report(tmp_path / "new" / "folder", diagnosis)
    text = path.read_text()
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]
    for title in ("Findings", "Verification", "Training", "Analyses", "Correlation", "Curvature", "Norms"):
        assert f"<h2>{title}" in text
    assert "mine:&lt;made&gt;" in text
    assert "mine:<made>" not in text
    assert "All gradients were finite, and no comparison failed." in text
    assert "data:image/png;base64," in text
    assert text.count("Plotly.newPlot") >= 1
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"https?:", text)
    readable = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "4.weight" in readable  # tables need no scripts
    numbers = json.loads((path.parent / "report.json").read_text())
    assert numbers["passed"] is True
    assert numbers["training"]["losses"] == pytest.approx(diagnosis.losses)
    assert numbers["norms"]["0.weight"]["steps"] == 8
    assert {check["what"] for check in numbers["checks"]} >= {"finite differences", "second derivative"}


def test_training_is_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    module, plain = made(model), copy.deepcopy(model)
    optimizer, losses = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.0), []
    for _ in range(3):
        optimizer.zero_grad()
        loss = module.loss_value(plain)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert diagnose_module(module, steps=3, learning_rate=0.1).losses == pytest.approx(losses, rel=1e-6)


def test_a_nan_that_comes_late() -> None:
    diagnosis = diagnose_module(made(Late()), steps=6)
    assert not diagnosis.finite
    assert not diagnosis.passed
    assert len(diagnosis.losses) == 4
    assert diagnosis.stopped == "The loss was NaN at step 3."
    assert {finding.parameter for finding in diagnosis.broken} >= {"broken.weight", "inner.weight"}
    assert {finding.step for finding in diagnosis.broken} == {3}
    page = module_page(diagnosis)
    assert "Training was stopped: The loss was NaN at step 3." in page
    assert "entries of the gradient are NaN at step 3" in page
    assert "Correlation and curvature were not analysed" in page
    assert "0, 0 of them" not in summary_lines(diagnosis)["findings"]


def test_a_module_that_is_not_differentiable_twice() -> None:
    diagnosis = diagnose_module(made(OnceModel(3, 2)), steps=2)
    assert diagnosis.passed  # it can't be told, which is no failure
    (reason,) = diagnosis.missing_analyses
    assert reason.startswith("Curvature could not be analysed: ")
    assert "matrix" in diagnosis.analyses[-1]["gradient_correlation"]
    assert reason.split(":")[0] in module_page(diagnosis)


def test_few_rows_have_no_correlation() -> None:
    page = module_page(diagnose_module(made(nn.Linear(3, 2), rows=3), steps=1))
    assert "It can&#x27;t be told: expected a batch of at least 6 rows" in page


def test_inputs_by_keyword_and_no_loss() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    inputs = {name: torch.randn(8, 3, 4) for name in ("query", "key", "value")}
    diagnosis = diagnose_module(module_under_test("mine", (attention, inputs)), steps=2)
    assert diagnosis.failed_checks == []
    assert diagnosis.missing_analyses == []
    assert [finding.kind for finding in diagnosis.broken] == []


def test_a_model_that_does_not_fit_its_inputs() -> None:
    module = module_under_test("mine", (nn.Linear(3, 2), torch.randn(4, 5)))
    with pytest.raises(FactoryError, match="mine: the model, called with its inputs, raised RuntimeError"):
        diagnose_module(module)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0, expected an int >= 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a"),
        ({"samples": -1}, "samples is -1, expected an int >= 0"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose_module(made(nn.Linear(3, 2)), **arguments)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    diagnosis = diagnose_module(made(nn.Linear(3, 2)), steps=1)
    with pytest.raises(OSError, match="file"):
        write_module_report(tmp_path / "file" / "folder", diagnosis)
    assert (tmp_path / "file").read_text() == "kept"
