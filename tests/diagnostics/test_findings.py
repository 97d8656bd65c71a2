"""What is wrong with gradients is found by kind, named, and told from what is sound."""

import math

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import Finding, Thresholds, find_issues, issues_of_norms
from seo_kernels.diagnostics.gradient_norms import gradient_norms
from seo_kernels.nn.typed_attention import TypedAttention


def two_layers() -> nn.Sequential:
    """With sound gradients everywhere."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    return model


def gradient(model: nn.Module, name: str) -> Tensor:
    found = model.get_parameter(name).grad
    assert found is not None
    return found


def test_sound_gradients_give_nothing() -> None:
    assert find_issues(two_layers()) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, ("nan", 8.0)),
        (math.inf, ("inf", 8.0)),
        (-math.inf, ("inf", 8.0)),
        (100.0, ("explosion", pytest.approx(100.0 * math.sqrt(8)))),
        (1e-10, ("vanishing", pytest.approx(1e-10 * math.sqrt(8)))),
        (0.0, ("dead", 0.0)),
    ],
)
def test_each_kind_names_its_parameter(value: float, expected: tuple[str, float]) -> None:
    model = two_layers()
    gradient(model, "1.weight").fill_(value)
    (finding,) = find_issues(model, step=5)
    assert (finding.parameter, finding.module, finding.step) == ("1.weight", "1", 5)
    assert (finding.kind, finding.value) == expected


def test_entries_are_counted() -> None:
    model = two_layers()
    gradient(model, "0.weight")[0, :2] = math.nan
    gradient(model, "0.weight")[1, 0] = math.inf
    gradient(model, "0.bias")[3] = math.inf
    first, second = find_issues(model)
    assert (first.kind, first.value) == ("nan", 2.0)
    assert (second.kind, second.value, second.parameter) == ("inf", 1.0, "0.bias")
    assert str(second) == "0.bias: 1 entry of the gradient is Inf (module 0)"
    assert "NaN" in str(first)


def test_a_missing_gradient_is_one_and_a_frozen_parameter_none() -> None:
    model = two_layers()
    model[0].bias.grad = None
    model[1].requires_grad_(False)
    model[1].zero_grad(set_to_none=True)
    (finding,) = find_issues(model, step=0)
    assert str(finding) == "0.bias: there is no gradient at step 0 (module 0)"


def test_thresholds_are_those_given() -> None:
    model = two_layers()
    gradient(model, "0.weight").fill_(1.0)
    assert find_issues(model) == []
    (finding,) = find_issues(model, thresholds=Thresholds(explosion=3.0))
    assert (finding.kind, finding.parameter) == ("explosion", "0.weight")
    gradient(model, "1.weight").fill_(1e-9)
    assert find_issues(model, thresholds=Thresholds(vanishing=0.0)) == []
    gradient(model, "1.weight").zero_()
    assert find_issues(model, thresholds=Thresholds(vanishing=0.0))[0].kind == "dead"


def test_a_total_that_explodes_is_one_finding() -> None:
    model = two_layers()
    gradient(model, "0.weight").fill_(2.5)  # norms of 8.7 and 8.8
    gradient(model, "1.weight").fill_(3.1)
    (finding,) = find_issues(model)
    assert (finding.kind, finding.parameter) == ("explosion", "1.weight")
    assert finding.value == pytest.approx(gradient_norms(model).total)
    assert "the norm of all gradients" in str(finding)


def test_a_norm_that_overflows_is_an_explosion() -> None:
    model = two_layers()
    gradient(model, "0.weight").fill_(1e30)
    (finding,) = find_issues(model)
    assert (finding.kind, finding.value) == ("explosion", pytest.approx(1e30 * math.sqrt(12)))


def test_a_norm_that_underflows_is_not_dead() -> None:
    model = two_layers()
    gradient(model, "0.weight").fill_(1e-30)
    (finding,) = find_issues(model)
    assert (finding.kind, finding.value) == ("vanishing", pytest.approx(1e-30 * math.sqrt(12)))


def test_the_loss_scale_is_taken_out() -> None:
    model = two_layers()
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad *= 65536.0
    assert find_issues(model, loss_scale=65536.0) == []
    gradient(model, "0.weight").fill_(1e-5)
    (finding,) = find_issues(model, loss_scale=65536.0)
    assert (finding.kind, finding.value) == ("vanishing", pytest.approx(1e-5 * math.sqrt(12) / 65536))


def test_a_bias_on_which_nothing_depends_is_sound() -> None:
    """Softmax is blind to what all scores of a query have in common: the gradient is rounding."""
    attention = TypedAttention(16, 2, dropout=0.0)
    attention(torch.randn(2, 8, 16)).square().sum().backward()
    norms = gradient_norms(attention).by_name()
    assert norms["w_k.bias"] < 1e-4 * norms["w_k.weight"]
    limits = Thresholds(explosion=1e9, vanishing=2 * norms["w_k.bias"])
    assert find_issues(attention, thresholds=limits) == []
    attention.w_k.weight.grad = torch.zeros_like(attention.w_k.weight)
    found = [finding.parameter for finding in find_issues(attention, thresholds=limits)]
    assert found == ["w_k.weight", "w_k.bias"]


def test_norms_alone_give_the_same_kinds() -> None:
    model = two_layers()
    gradient(model, "0.weight").fill_(math.nan)
    gradient(model, "0.bias").fill_(math.inf)
    gradient(model, "1.weight").zero_()
    model[1].bias.grad = None
    found = issues_of_norms(gradient_norms(model), step=2)
    assert [finding.kind for finding in found] == [finding.kind for finding in find_issues(model)]
    assert str(found[0]) == "0.weight: the norm of the gradient is NaN at step 2 (module 0)"


def test_empty_parameters_are_sound() -> None:
    model = nn.Linear(0, 2)
    model(torch.ones(1, 0)).sum().backward()
    assert find_issues(model) == []


def test_findings_are_sentences() -> None:
    elsewhere = Finding("inf", "a.weight", "b.c", 4, 3.0, "as Inf in the forward pass")
    assert str(elsewhere) == (
        "a.weight: 3 entries of the gradient are Inf at step 4; it began in module b.c, "
        "as Inf in the forward pass"
    )
    assert str(Finding("dead", "weight", "", None, 0.0)) == (
        "weight: the gradient is zero throughout (the model itself)"
    )


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"explosion": 0.0}, ValueError, "explosion is 0.0, expected a number above vanishing=1e-08"),
        ({"explosion": math.nan}, ValueError, "explosion is nan"),
        ({"vanishing": -1.0}, ValueError, "vanishing is -1.0, expected a finite number >= 0"),
        ({"vanishing": math.inf}, ValueError, "vanishing is inf, expected a finite number >= 0"),
        ({"vanishing": 20.0}, ValueError, "explosion is 10.0, expected a number above vanishing=20.0"),
        ({"explosion": "10"}, TypeError, "explosion is a str"),
        ({"vanishing": True}, TypeError, "vanishing is a bool"),
    ],
)
def test_thresholds_out_of_range(values: dict[str, float], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Thresholds(**values)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="model has no parameters"):
        find_issues(nn.ReLU())
    with pytest.raises(TypeError, match="thresholds is a float"):
        find_issues(two_layers(), thresholds=10.0)  # type: ignore[arg-type]
