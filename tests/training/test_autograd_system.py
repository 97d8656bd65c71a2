"""A training system: what it computes, and what each key of its configuration changes."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.nn.combined_loss import CustomLossFunction
from seo_kernels.training.autograd_system import CUSTOM, TORCH, AutogradTrainingSystem, split_batch

Batches = list[tuple[Tensor, Tensor]]


def small_model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def batches(count: int = 4, rows: int = 8) -> Batches:
    torch.manual_seed(2)
    return [(torch.randn(rows, 6), torch.randn(rows, 1)) for _ in range(count)]


def made(model: nn.Module | None = None, loss_fn: Any = F.mse_loss, **section: Any) -> AutogradTrainingSystem:
    model = small_model() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return AutogradTrainingSystem.from_config({"autograd_system": section}, model, optimizer, loss_fn)


def parameters(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def trained_plainly(model: nn.Module, data: Batches) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for inputs, target in data:
        optimizer.zero_grad()
        F.mse_loss(model(inputs), target).backward()
        optimizer.step()


def test_an_epoch_is_the_plain_loop() -> None:
    system, plain = made(), small_model()
    epoch = system.train_epoch(batches())
    trained_plainly(plain, batches())
    torch.testing.assert_close(parameters(system.model), parameters(plain))
    assert epoch.updates == 4
    mean = sum(F.mse_loss(plain(x), y).item() for x, y in batches()) / 4
    assert system.evaluate(batches()) == pytest.approx(mean, rel=1e-5)


def test_a_step_and_a_fit() -> None:
    system = made()
    before = system.evaluate(batches())
    step = system.train_step(*batches()[0])
    assert step.updated
    assert step.grad_norm > 0
    history = system.fit(batches(), batches(), epochs=5, patience=3)
    assert len(history.epochs) == 5
    assert system.evaluate(batches()) < before


def test_resuming_from_a_checkpoint(tmp_path: Path) -> None:
    whole, first, second = made(), made(), made()
    whole.fit(batches(), epochs=3)
    first.fit(batches(), epochs=1, checkpoint_folder=tmp_path)
    second.fit(batches(), epochs=3, checkpoint_folder=tmp_path, resume=True)
    assert torch.equal(parameters(whole.model), parameters(second.model))


def test_higher_order_gradients() -> None:
    """Of (w - 1)^3: 3 (w - 1)^2, 6 (w - 1), 6."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 3.0)
    system = made(model, loss_fn=lambda output, target: (output - target).pow(3).sum())
    found = system.compute_higher_order_gradients(torch.ones(1, 1), torch.ones(1, 1), order=3)
    assert [[g.item() for g in gradients] for gradients in found] == [[12.0], [12.0], [6.0]]
    assert model.weight.grad is None


def test_key_enable_gradients() -> None:
    """Off: everything is frozen and nothing trains, evaluation goes on."""
    expected = made().evaluate(batches())
    system = made(enable_gradients=False)
    assert not any(p.requires_grad for p in system.model.parameters())
    assert system.evaluate(batches()) == pytest.approx(expected)
    for call in (
        lambda: system.train_step(*batches()[0]),
        lambda: system.train_epoch(batches()),
        lambda: system.compute_higher_order_gradients(*batches()[0]),
    ):
        with pytest.raises(RuntimeError, match=r"autograd_system.enable_gradients is false"):
            call()
    frozen = small_model()
    frozen[0].requires_grad_(False)
    made(frozen, enable_gradients=True)
    assert not frozen[0].weight.requires_grad  # what the user froze stays so


def test_key_gradient_monitoring_enabled() -> None:
    system = made()
    assert system.gradient_summary() == {}
    for inputs, target in batches():
        system.train_step(inputs, target)
    expected = torch.cat([p.grad.flatten() for p in system.model.parameters() if p.grad is not None]).norm()
    summary = system.gradient_summary()
    assert summary["total_norm"] == pytest.approx(expected.item(), rel=1e-5)
    assert isinstance(system.monitor, GradientMonitor)
    off = made(gradient_monitoring={"enabled": False})
    off.train_epoch(batches())
    assert off.monitor is None
    assert off.gradient_summary() == {}


@pytest.mark.parametrize("saved", [True, False])
def test_key_save_gradient_history(saved: bool, tmp_path: Path) -> None:
    system = made(gradient_monitoring={"save_gradient_history": saved})
    system.train_epoch(batches())
    system.save_report(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["gradients"]["history"]["steps"] == ([0, 1, 2, 3] if saved else [3])
    assert report["configuration"]["gradient_monitoring"]["save_gradient_history"] is saved
    assert len(report["training"]["latest_losses"]) == 4


def test_key_higher_order_gradients() -> None:
    system = made(advanced_features={"higher_order_gradients": False})
    with pytest.raises(
        RuntimeError, match=r"autograd_system.advanced_features.higher_order_gradients is false"
    ):
        system.compute_higher_order_gradients(*batches()[0])


def test_key_custom_gradients() -> None:
    custom, own = made().functions, made(advanced_features={"custom_gradients": False}).functions
    assert custom is CUSTOM
    assert own is TORCH
    x, w, y = torch.randn(3, 4), torch.randn(4, 4), torch.randn(3, 4)
    for name, arguments in {
        "linear": (x, w),
        "product": (x, w),
        "relu": (x,),
        "leaky_relu": (x,),
        "huber_loss": (x, y),
    }.items():
        ours = getattr(custom, name)(*(a.clone().requires_grad_() for a in arguments))
        torch.testing.assert_close(ours, getattr(own, name)(*arguments))
        assert ours.grad_fn is not None
        assert type(ours.grad_fn).__name__.startswith("Custom")


class Checkpointed(nn.Sequential):
    enabled = False

    def gradient_checkpointing_enable(self) -> None:
        self.enabled = True


def test_key_gradient_checkpointing() -> None:
    model = Checkpointed(nn.Linear(6, 1))
    made(model)
    assert not model.enabled
    made(model, advanced_features={"gradient_checkpointing": True})
    assert model.enabled
    with pytest.raises(
        ValueError, match=r"features.gradient_checkpointing is true, .* which Sequential lacks"
    ):
        made(advanced_features={"gradient_checkpointing": True})


@pytest.mark.parametrize(("value", "dtype"), [(True, torch.bfloat16), ("fp16", torch.float16), (False, None)])
def test_key_mixed_precision(value: Any, dtype: torch.dtype | None) -> None:
    model, seen = small_model(), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    system = made(model, performance={"mixed_precision": value})
    system.train_step(*batches()[0])
    assert seen == [dtype or torch.float32]
    assert system.engine.scaler.is_enabled() == (dtype == torch.float16)
    before = parameters(model)
    for inputs, target in batches(8):
        system.train_step(inputs, target)
    assert not torch.equal(parameters(model), before)


def test_key_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled model trains as the plain one does."""
    compiled = []

    def with_eager_backend(model: nn.Module, **options: Any) -> Any:
        compiled.append(model)
        return original(model, backend="eager", **options)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", with_eager_backend)
    system, plain = made(performance={"compile": True}), small_model()
    system.train_epoch(batches())
    trained_plainly(plain, batches())
    assert compiled == [system.model]
    torch.testing.assert_close(parameters(system.model), parameters(plain))


def test_key_channels_last() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(1))
    model(torch.randn(1, 3, 8, 8))
    seen = []
    model[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    system = made(model, performance={"channels_last": True})
    system.train_step(torch.randn(2, 3, 8, 8), torch.randn(2, 1))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    made(model).train_step(torch.randn(2, 3, 8, 8), torch.randn(2, 1))
    assert not seen[1].is_contiguous(memory_format=torch.channels_last)


def test_key_accumulation_steps() -> None:
    """Four small batches are one large one."""
    system, plain = made(performance={"accumulation_steps": 4}), small_model()
    data = batches()
    system.train_epoch(data)
    large = (torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))
    trained_plainly(plain, [large])
    torch.testing.assert_close(parameters(system.model), parameters(plain))
    assert system.gradient_summary()["history"]["steps"] == [0]


def test_a_loss_that_learns() -> None:
    model, loss_fn = small_model(), CustomLossFunction()
    optimizer = torch.optim.SGD([*model.parameters(), *loss_fn.parameters()], lr=0.1)
    system = AutogradTrainingSystem(model, optimizer, loss_fn)
    system.train_epoch(batches())
    assert bool((loss_fn.log_balance != 0).all())
    fixed = CustomLossFunction()
    made(loss_fn=fixed).train_epoch(batches())  # the optimizer has none of its parameters
    assert bool((fixed.log_balance == 0).all())


def test_findings_reach_the_summary(tmp_path: Path) -> None:
    """A NaN gradient, from the second step on, and a loss that is not finite in the fourth."""
    system = made()
    inputs, target = batches()[0]
    system.train_step(inputs, target)
    handle = system.model[2].weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.warns(RuntimeWarning, match="updates nothing"):
        system.train_step(inputs, target)
    handle.remove()
    system.train_step(inputs, target)
    with pytest.warns(RuntimeWarning, match="the loss of batch 3 is nan"):
        system.train_step(inputs, target * float("nan"))
    (issue,) = system.gradient_summary()["issues"]
    assert "NaN" in issue
    assert "2.weight" in issue
    assert "step 1" in issue
    system.save_report(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["training"]["skipped_steps"] == 2


def test_hooks_are_removed() -> None:
    system = made()
    system.train_step(*batches()[0])
    system.close()
    system.model(batches()[0][0]).sum().backward()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in system.model.modules())


def test_text_report(tmp_path: Path) -> None:
    system = made()
    system.fit(batches(), batches(), epochs=2)
    system.save_report(tmp_path / "report.txt")
    text = (tmp_path / "report.txt").read_text()
    assert text.startswith("Autograd training system")
    assert "accumulation_steps 1" in text
    with pytest.raises(OSError, match="nowhere"):
        system.save_report(tmp_path / "nowhere" / "report.txt")


def test_batches_of_every_form() -> None:
    x, y = torch.ones(2, 1), torch.zeros(2)
    assert split_batch((x, y)) == (x, y)
    assert split_batch([x, x, y]) == ((x, x), y)
    assert split_batch({"ids": x, "labels": y}) == ({"ids": x}, y)
    with pytest.raises(ValueError, match="keys ids, expected labels and inputs"):
        split_batch({"ids": x})
    with pytest.raises(TypeError, match="the batch is a Tensor"):
        split_batch(x)
    with pytest.raises(ValueError, match="length 1"):
        split_batch((x,))


def test_arguments_that_do_not_fit() -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="model is a list"):
        AutogradTrainingSystem([], optimizer, F.mse_loss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without parameters"):
        AutogradTrainingSystem(nn.Tanh(), optimizer, F.mse_loss)
    with pytest.raises(TypeError, match="optimizer is a float"):
        AutogradTrainingSystem(model, 0.1, F.mse_loss)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss_fn is a str"):
        AutogradTrainingSystem(model, optimizer, "mse")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config is an int"):
        AutogradTrainingSystem(model, optimizer, F.mse_loss, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="yields nothing"):
        made(copy.deepcopy(model)).evaluate([])
    with pytest.raises(ValueError, match="yields nothing"):
        made(copy.deepcopy(model), enable_gradients=False).evaluate([])
