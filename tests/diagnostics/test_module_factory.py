"""A factory's name and what it returns: every form works, and every mistake gets an error that names it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seo_kernels.diagnostics.module_factory import FactoryError, load_factory, module_under_test

MODULE = """
import torch
from torch import nn

number = 3
weights = nn.Linear(3, 2)

def alone(): return weights, torch.ones(4, 3)
def with_loss(): return weights, torch.ones(4, 3), lambda output: output.pow(2).sum()
def with_target(): return weights, (torch.ones(4, 3),), torch.zeros(4, 2), nn.MSELoss()
def by_keyword(): return weights, {"input": torch.ones(4, 3)}
def broken(): raise RuntimeError("out of\\n weights")
class Made:
    @staticmethod
    def here(): return weights, torch.ones(4, 3)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package in the current folder, of a name that no other test imports."""
    package = tmp_path / f"mine_{tmp_path.name.replace('-', '_')}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(MODULE)
    (package / "needs.py").write_text("import no_such_library")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    return package.name


@pytest.mark.parametrize("form", ["alone", "with_loss", "with_target", "by_keyword", "Made.here"])
def test_every_form(module: str, form: str) -> None:
    found = load_factory(f"{module}.models:{form}")
    assert found.name == f"{module}.models:{form}"
    output = found.output()
    assert output.shape == (4, 2)
    loss = found.loss_value()
    loss.backward()
    assert loss.shape == ()
    gradient = found.model.weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert bool(gradient.ne(0).all())
    if form == "with_loss":
        assert loss == output.pow(2).sum()
    if form == "with_target":
        assert loss == output.pow(2).mean()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models", "expected 'package.module:factory'"),
        ("models:", "expected 'package.module:factory'"),
        (":alone", "expected 'package.module:factory'"),
        ("nowhere:alone", "no module 'nowhere'"),
        ("PACKAGE.nowhere:alone", "no module 'PACKAGE.nowhere' for"),
        ("PACKAGE.needs:alone", "No module named 'no_such_library'"),
        (
            "PACKAGE.models:alon",
            "has no 'alon', expected one of alone, with_loss, with_target, by_keyword, broken, Made",
        ),
        ("PACKAGE.models:number", r"is an int \(3\), expected a function"),
        ("PACKAGE.models:broken", r"raised RuntimeError: out of weights \(.*models.py, line 12\)"),
    ],
)
def test_wrong_names(module: str, name: str, message: str) -> None:
    with pytest.raises(FactoryError, match=message.replace("PACKAGE", module)):
        load_factory(name.replace("PACKAGE", module))


LINEAR, INPUTS = nn.Linear(3, 2, device="cpu"), torch.ones(4, 3)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (LINEAR, r"mine returned a Linear, expected \(model, inputs\)"),
        ((LINEAR,), "mine returned a tuple of 1, expected"),
        ((LINEAR, INPUTS, None, None, None), "mine returned a tuple of 5"),
        ((INPUTS, LINEAR), "a Tensor as model, expected a torch.nn.Module"),
        ((LINEAR, INPUTS, INPUTS), "a Tensor as loss, expected a function"),
        ((LINEAR, ()), "no inputs"),
        ((nn.ReLU(), INPUTS), "a ReLU without trainable parameters"),
        ((nn.Linear(3, 2).requires_grad_(False), INPUTS), "a Linear without trainable parameters"),
    ],
)
def test_wrong_returns(made: Any, message: str) -> None:
    with pytest.raises(FactoryError, match=message):
        module_under_test("mine", made)


def test_name_that_is_no_string() -> None:
    with pytest.raises(TypeError, match="name is an int"):
        load_factory(3)  # type: ignore[arg-type]


def test_losses_that_are_none() -> None:
    with pytest.raises(FactoryError, match=r"the loss is a tensor of shape \(4, 2\), expected a scalar"):
        module_under_test("mine", (LINEAR, INPUTS, lambda output: output)).loss_value()
    with pytest.raises(FactoryError, match="the loss is a float"):
        module_under_test("mine", (LINEAR, INPUTS, lambda output: output.sum().item())).loss_value()

    class Ids(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).argmax(-1)

    with pytest.raises(FactoryError, match="without a floating-point tensor"):
        module_under_test("mine", (Ids(3, 2), INPUTS)).loss_value()


def test_the_loss_without_a_loss() -> None:
    """The model's own loss where it has one; else no sum that hides what cancels."""

    class Answers(nn.Linear):
        def forward(self, input: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = super().forward(input)
            return {"logits": logits, "loss": logits.pow(2).mean()}

    answers = module_under_test("mine", (Answers(3, 2), INPUTS))
    assert answers.loss_value() == answers.output()["loss"]
    softmax = nn.Sequential(nn.Linear(3, 2), nn.Softmax(-1))
    found = module_under_test("mine", (softmax, INPUTS))
    (gradient,) = torch.autograd.grad(found.loss_value(), [softmax[0].weight])
    assert gradient.norm() > 1e-3
    assert found.loss_value() == found.loss_value()
