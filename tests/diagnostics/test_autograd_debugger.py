"""The debugger names what is unsound in gradients; anomaly detection goes on and off."""

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger, enable_autograd_detection
from seo_kernels.diagnostics.findings import Thresholds


@pytest.fixture
def model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))
    nn.functional.mse_loss(model(torch.randn(16, 10)), torch.randn(16, 1)).backward()
    return model


def test_a_healthy_model_has_no_issues(model: nn.Sequential) -> None:
    assert AutogradDebugger().check_gradients(model) == {"has_issues": False, "issues": []}


@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "Inf"), (1e4, "explodes")], ids=str
)
def test_an_issue_is_named(model: nn.Sequential, value: float, word: str) -> None:
    gradient = model[0].weight.grad
    assert isinstance(gradient, Tensor)
    gradient[0, 0] = value
    found = AutogradDebugger().check_gradients(model)
    assert found["has_issues"] is True
    (issue,) = found["issues"]
    assert "0.weight" in issue
    assert word in issue


def test_no_gradient_and_a_dead_one(model: nn.Sequential) -> None:
    model[0].weight.grad = None
    for parameter in model[2].parameters():
        assert parameter.grad is not None
        parameter.grad.zero_()
    issues = AutogradDebugger().check_gradients(model)["issues"]
    assert [issue.split(":")[0] for issue in issues] == ["0.weight", "2.weight", "2.bias"]


def test_thresholds_are_those_given(model: nn.Sequential) -> None:
    assert AutogradDebugger(Thresholds(explosion=1e-3)).check_gradients(model)["has_issues"]
    with pytest.raises(TypeError, match="thresholds is a float"):
        AutogradDebugger(3.0)  # type: ignore[arg-type]


def test_bad_models() -> None:
    with pytest.raises(TypeError, match="model is a str"):
        AutogradDebugger().check_gradients("model")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model has no parameters"):
        AutogradDebugger().check_gradients(nn.ReLU())


@pytest.fixture
def detection_as_before() -> object:
    before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    yield
    torch.autograd.set_detect_anomaly(*before)


@pytest.mark.usefixtures("detection_as_before")
@pytest.mark.filterwarnings("ignore:Error detected in")
def test_anomaly_detection() -> None:
    def nan_backward() -> None:
        value = torch.zeros((), requires_grad=True)
        (value.sqrt() * 0.0).backward()  # 0 times infinity

    nan_backward()
    enable_autograd_detection()
    assert torch.is_anomaly_enabled()
    with pytest.raises(RuntimeError, match="returned nan values"):
        nan_backward()
    with enable_autograd_detection(False):
        nan_backward()
    assert torch.is_anomaly_enabled()
    enable_autograd_detection(check_nan=False)
    assert torch.is_anomaly_enabled()
    nan_backward()
    with pytest.raises(TypeError, match="enabled is an int"):
        enable_autograd_detection(1)  # type: ignore[arg-type]
