"""Analyses of one batch: every figure beside its plain definition, and a model that stays as it was."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels.diagnostics.curvature import SecondDerivativeError
from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig, GradientAnalyzer
from seo_kernels.diagnostics.gradient_flow import angle, correlation, forward_order, layers_of
from seo_kernels.diagnostics.hessian_spectrum import hessian_spectrum

PARTS = ("hessian", "gradient_norms", "gradient_angles", "gradient_correlation", "gradient_flow")
LOSS = nn.MSELoss()


class Attending(nn.Module):
    """A small network on our ops, out of the order in which its layers are called."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)
        self.project = sk.nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, 8) -> (B, 1)
        x = self.project(x)
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        x = x + sk.attention(heads, heads, heads, pattern=sk.Local(2)).transpose(1, 2).flatten(2)
        return self.head(self.norm(x).mean(1))


def batch(rows: int = 16, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {
        "input_data": torch.randn(rows, 5, 8, dtype=dtype),
        "target_data": torch.randn(rows, 1, dtype=dtype),
    }


def analyzed(model: nn.Module, analyzer: GradientAnalyzer, data: dict[str, Tensor]) -> dict[str, Any]:
    return analyzer.analyze_gradients(model=model, loss_function=LOSS, **data)


def plain_gradients(model: nn.Module, data: dict[str, Tensor]) -> dict[str, Tensor]:
    loss = LOSS(model(data["input_data"]), data["target_data"])
    names = dict(model.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, list(names.values())), strict=True))


def dense_hessian(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    names = list(dict(model.named_parameters()))
    shapes = [parameter.shape for parameter in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return LOSS(torch.func.functional_call(model, values, (data["input_data"],)), data["target_data"])

    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def test_norms_flow_and_loss() -> None:
    model, data = Attending().double(), batch()
    results = analyzed(model, GradientAnalyzer(), data)
    gradients = plain_gradients(model, data)
    for name, gradient in gradients.items():
        assert results["gradient_norms"]["parameters"][name] == pytest.approx(gradient.norm().item())
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients.values()])
    assert results["gradient_norms"]["total"] == pytest.approx(flat.norm().item())
    flow = results["gradient_flow"]
    assert flow["layers"] == ["project", "norm", "head"]  # as called, not as registered
    own = torch.cat([gradients["norm.weight"], gradients["norm.bias"]]).abs()
    assert flow["mean"][1] == pytest.approx(own.mean().item(), rel=1e-6)
    assert flow["max"][1] == pytest.approx(own.max().item(), rel=1e-6)
    assert flow["norm"][1] == pytest.approx(own.norm().item(), rel=1e-6)
    assert results["loss"] == pytest.approx(LOSS(model(data["input_data"]), data["target_data"]).item())


def test_spectrum_is_that_of_the_dense_hessian() -> None:
    model, data = Attending().double(), batch()
    values = torch.linalg.eigvalsh(dense_hessian(model, data))
    loss = LOSS(model(data["input_data"]), data["target_data"])
    spectrum = hessian_spectrum(model, loss, eigenvalues=4, samples=60)
    expected = sorted(values.tolist(), key=abs, reverse=True)[:4]
    torch.testing.assert_close(torch.tensor(spectrum.eigenvalues), torch.tensor(expected), rtol=1e-6, atol=0)
    assert abs(spectrum.trace - values.sum().item()) < 4 * spectrum.trace_error
    assert 0 < spectrum.trace_error < 0.5 * abs(spectrum.trace)


def test_spectrum_of_few_parameters_is_exact() -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    loss = model(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).square().sum()  # H = 2 (1, 2)^T (1, 2)
    spectrum = hessian_spectrum(model, loss, eigenvalues=2)
    assert spectrum.trace == pytest.approx(10.0)
    assert spectrum.trace_error == 0.0
    assert spectrum.eigenvalues == pytest.approx((10.0, 0.0), abs=1e-12)


def test_spectrum_of_a_linear_loss_is_zero() -> None:
    model = nn.Linear(20, 1)
    spectrum = hessian_spectrum(model, model(torch.randn(3, 20)).sum(), samples=2)
    assert spectrum.trace == 0.0
    assert spectrum.eigenvalues == (0.0, 0.0, 0.0)


def test_angles_between_successive_gradients() -> None:
    model, analyzer = Attending().double(), GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False))
    first, second = batch(), batch()
    assert analyzed(model, analyzer, first)["gradient_angles"] == {"total": None, "parameters": {}}
    angles = analyzed(model, analyzer, second)["gradient_angles"]
    a, b = plain_gradients(model, first), plain_gradients(model, second)
    flat_a, flat_b = (torch.cat([g.reshape(-1) for g in gradients.values()]) for gradients in (a, b))
    expected = math.acos(torch.nn.functional.cosine_similarity(flat_a, flat_b, dim=0).item())
    assert angles["total"] == pytest.approx(expected, abs=1e-9)
    assert 0.0 < angles["parameters"]["head.weight"] < math.pi
    assert analyzed(model, analyzer, second)["gradient_angles"]["total"] == pytest.approx(0.0, abs=1e-9)


def test_small_angles_are_exact() -> None:
    a, b = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1.0, 1e-9], dtype=torch.float64)
    assert angle([(a, b)]) == pytest.approx(1e-9, rel=1e-6)
    assert angle([(a, -a)]) == pytest.approx(math.pi)
    assert math.isnan(angle([(a, torch.zeros(2))]))


def test_correlation_of_layers() -> None:
    """Two layers whose gradients are proportional, a third that goes the other way."""

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(1, 1, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + 3 * self.b(x) + self.c(10 - x)

    model = Three()
    x = torch.arange(1.0, 9.0)[:, None]
    parameters = dict(model.named_parameters())
    layers = {name.rpartition(".")[0]: [name] for name in parameters}
    found = correlation(model, lambda out, _: out.mean(), x, None, parameters, layers)
    expected = [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
    torch.testing.assert_close(torch.tensor(found["matrix"]), torch.tensor(expected))
    assert found["layers"] == ["a", "b", "c"]
    few = correlation(model, lambda out, _: out.mean(), x[:5], None, parameters, layers)
    assert few["matrix"] is None
    assert few["note"] == "expected a batch of at least 6 rows: it has 5"


def test_layers_that_are_not_called_stand_behind_their_owner() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    x = torch.randn(3, 4)
    with forward_order(model) as order:
        hidden = model[0](x)
        model[1](hidden, hidden, hidden)
    gradients = dict(model.named_parameters())
    assert list(layers_of(model, gradients, order)) == ["0", "1", "1.out_proj"]
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_nothing_is_disturbed() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[0].weight.grad = torch.full_like(model[0].weight, 7.0)
    model[2].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    GradientAnalyzer().analyze_gradients(
        model=model, loss_function=LOSS, input_data=torch.randn(8, 4), target_data=torch.randn(8, 1)
    )
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert torch.equal(model[0].weight.grad, torch.full_like(model[0].weight, 7.0))
    assert model[3].weight.grad is None
    assert model[0].training
    assert not model[2].training
    torch.randn(8, 4), torch.randn(8, 1)
    after = torch.get_rng_state()
    torch.set_rng_state(random)
    torch.randn(8, 4), torch.randn(8, 1), torch.randn(8, 4), torch.randn(8, 1)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("left_out", PARTS)
def test_every_flag_leaves_its_part_out(left_out: str) -> None:
    model, data = Attending(), batch(dtype=torch.float32)
    results = analyzed(
        model, GradientAnalyzer(GradientAnalysisConfig(**{f"compute_{left_out}": False})), data
    )
    assert {part for part in PARTS if part in results} == set(PARTS) - {left_out}


def test_issues() -> None:
    model, data = Attending().double(), batch()
    analyzer = GradientAnalyzer(GradientAnalysisConfig(gradient_norm_threshold=1e3))
    assert analyzer.detect_gradient_issues(analyzed(model, analyzer, data)) == []
    opposite = {**data, "target_data": 2 * model(data["input_data"]).detach() - data["target_data"]}
    (issue,) = analyzer.detect_gradient_issues(analyzed(model, analyzer, opposite))
    assert issue.startswith("the gradient is opposite to the one before: the angle is 3.14 radians")
    huge = {**data, "target_data": data["target_data"] + 1e6}
    issues = analyzer.detect_gradient_issues(analyzed(model, analyzer, huge))
    assert any(
        issue.startswith("head.bias: the norm of the gradient is 2e+06, above 1000") for issue in issues
    )
    broken = {**data, "input_data": data["input_data"] * math.nan}
    issues = GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False)).detect_gradient_issues(
        analyzed(model, GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False)), broken)
    )
    assert "the loss is NaN" in issues
    assert "project.weight: the norm of the gradient is NaN" in issues


def test_vanished_and_missing_gradients_are_issues() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    nn.init.zeros_(model[1].weight)
    analyzer = GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False, gradient_norm_threshold=100))
    data = {"input_data": torch.randn(8, 4), "target_data": torch.randn(8, 1)}
    issues = analyzer.detect_gradient_issues(analyzed(model, analyzer, data))
    assert "unused: there is no gradient" in issues
    assert "0.weight: the gradient vanishes with a norm of 0" in issues


def test_statistics_and_files(tmp_path: Path) -> None:
    model, analyzer = Attending(), GradientAnalyzer()
    assert analyzer.get_gradient_statistics() == {}
    with pytest.raises(ValueError, match="nothing was analysed yet"):
        analyzer.plot_gradient_analysis(tmp_path / "none.png")
    totals = [
        analyzed(model, analyzer, batch(dtype=torch.float32))["gradient_norms"]["total"] for _ in range(3)
    ]
    statistics = analyzer.get_gradient_statistics()
    assert statistics["analyses"] == 3
    assert statistics["total_norm"]["mean"] == pytest.approx(sum(totals) / 3)
    assert statistics["total_angle"]["steps"] == 2
    assert set(statistics["parameters"]) == set(dict(model.named_parameters()))
    picture = analyzer.plot_gradient_analysis(tmp_path / "analysis.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = analyzer.save_flow_page(tmp_path / "flow.html").read_text()
    assert "project" in page


def test_history_is_bounded() -> None:
    analyzer = GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False, history=2))
    model = Attending()
    for _ in range(3):
        analyzed(model, analyzer, batch(dtype=torch.float32))
    assert len(analyzer.history) == 2


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"compute_hessian": 1}, "compute_hessian is an int \\(1\\), expected True or False"),
        ({"gradient_norm_threshold": 0.0}, "gradient_norm_threshold is 0.0, expected a number above 0"),
        ({"gradient_angle_threshold": 4.0}, "gradient_angle_threshold is 4.0, expected at most pi"),
        ({"hessian_samples": 1}, "hessian_samples is 1, expected an int >= 2"),
        ({"history": 0}, "history is 0, expected an int >= 1"),
    ],
)
def test_configuration_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        GradientAnalysisConfig(**change)


def test_bad_input() -> None:
    analyzer, x = GradientAnalyzer(), torch.randn(6, 4)
    with pytest.raises(TypeError, match="config is a dict, expected a GradientAnalysisConfig"):
        GradientAnalyzer({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss has shape \(6, 1\), expected a scalar"):
        analyzer.analyze_gradients(
            model=nn.Linear(4, 1), loss_function=lambda out, _: out, input_data=x, target_data=None
        )
    with pytest.raises(ValueError, match="without a trainable parameter"):
        analyzer.analyze_gradients(model=nn.ReLU(), loss_function=LOSS, input_data=x, target_data=x)
    with pytest.raises(TypeError, match="expected what analyze_gradients returned"):
        analyzer.detect_gradient_issues([])  # type: ignore[arg-type]
    # torch.autograd.grad alone would leave that part of the Hessian out, silently
    with pytest.raises(SecondDerivativeError, match="marked once_differentiable"):
        analyzer.analyze_gradients(
            model=nn.Linear(4, 1),
            loss_function=lambda out, _: OnceOnly.apply(out).square().mean(),
            input_data=x,
            target_data=None,
        )
