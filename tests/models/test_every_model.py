"""What every model can: learn with all its parameters, bf16, compiled, checkpointed, saved, copied."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from models.small_models import SMALL
from torch import Tensor, nn

from seo_kernels import _library

pytestmark = pytest.mark.usefixtures("one_thread")  # for models this small a second one costs time
every_model = pytest.mark.parametrize("name", list(SMALL))


def made(name: str, **options: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    return SMALL[name].make(**options), SMALL[name].inputs()


def gradients(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    out = model(*inputs)
    return out.detach(), *torch.autograd.grad(out.float().sin().sum(), tuple(model.parameters()))


@every_model
def test_shape_and_a_gradient_for_every_parameter(name: str) -> None:
    model, inputs = made(name)
    out, *grads = gradients(model, inputs)
    assert out.shape == SMALL[name].shape
    assert out.dtype == torch.float32
    for (parameter, _), grad in zip(model.named_parameters(), grads, strict=True):
        assert grad.isfinite().all(), parameter
    # exact zeros are possible for biases before batch normalisation, in exact arithmetic; no None, at least
    assert sum(bool(grad.any()) for grad in grads) >= len(grads) - 4


@every_model
def test_training_step_under_autocast(name: str) -> None:
    model, inputs = made(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, *grads = gradients(model, inputs)
        for padding in SMALL[name].padding:
            assert model(*inputs, padding).isfinite().all()
    assert out.isfinite().all()
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)
    model.eval()
    with torch.no_grad():
        exact = model(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(model(*inputs).float(), exact, atol=0.1, rtol=0.1)


@every_model
def test_compiled(name: str) -> None:
    model, inputs = made(name)
    model.eval()
    inputs = (*inputs, *SMALL[name].padding[:1])
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager")
    for actual, expected in zip(gradients(compiled, inputs), gradients(model, inputs), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@every_model
def test_checkpointing_changes_nothing(name: str) -> None:
    """Neither results nor gradients nor running statistics; also with padding, and after it is off again."""
    model, inputs = made(name)
    again = copy.deepcopy(model)
    again.gradient_checkpointing_enable()
    again.gradient_checkpointing_enable()
    for call in (inputs, *((*inputs, padding) for padding in SMALL[name].padding)):
        torch.testing.assert_close(gradients(again, call), gradients(model, call))
        assert dict(model.named_buffers()).keys() == dict(again.named_buffers()).keys()
        for (buffer, expected), actual in zip(model.named_buffers(), again.buffers(), strict=True):
            torch.testing.assert_close(actual, expected, msg=buffer)
    assert saved_by(again, inputs) < saved_by(model, inputs)
    again.gradient_checkpointing_disable()
    assert saved_by(again, inputs) == saved_by(model, inputs)


def saved_by(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Bytes that a forward pass keeps for backward."""
    sizes = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(*inputs)
    return sum(sizes)


@every_model
def test_within_a_users_checkpoint(name: str) -> None:
    model, inputs = made(name)
    model.eval()
    torch.utils.checkpoint.checkpoint(model, *inputs, use_reentrant=False).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_model
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, inputs = made(name, dropout=0.25) if name != "CustomRNNModel" else made(name)
    model(*inputs)  # running statistics
    model.eval()
    model.save_pretrained(tmp_path / "folder")
    loaded = type(model).from_pretrained(tmp_path / "folder")
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == ["config.json", "model.safetensors"]
    assert loaded.arguments == model.arguments
    assert not loaded.training
    assert torch.equal(loaded(*inputs), model(*inputs))
    for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert ours.requires_grad
        assert torch.equal(ours, theirs)

    model.bfloat16().save_pretrained(str(tmp_path / "folder"))
    assert {p.dtype for p in type(model).from_pretrained(tmp_path / "folder").parameters()} == {
        torch.bfloat16
    }


@every_model
def test_copied_pickled_replicated(name: str) -> None:
    model, inputs = made(name)
    model.eval()
    expected = model(*inputs)
    state = SMALL[name].make()
    state.load_state_dict(model.state_dict())
    replica = model._replicate_for_data_parallel()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), state.eval()):
        assert torch.equal(other(*inputs), expected)
        assert other.arguments == model.arguments
    assert replica.arguments == model.arguments


@every_model
def test_double_precision(name: str) -> None:
    model, inputs = made(name)
    model.eval()
    exact = copy.deepcopy(model).double()
    precise = tuple(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)
    torch.testing.assert_close(exact(*precise).float(), model(*inputs), atol=1e-5, rtol=1e-4)


@every_model
def test_recipes_find_the_layers(name: str) -> None:
    model, inputs = made(name)
    seen = []

    def init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.RNNBase)):
            for parameter in module.parameters(recurse=False):
                seen.append(parameter)
                nn.init.constant_(parameter, 0.01)

    model.apply(init_weights)
    others = {parameter for parameter, value in model.named_parameters() if not any(value is s for s in seen)}
    assert all("norm" in p or "positions.learned" in p or "relative" in p or ".1." in p for p in others), (
        others
    )
    assert model(*inputs).isfinite().all()


@pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["CustomTransformer", "CustomTransformer, local", "DeepResidualCNN"])
def test_scripted(name: str, tmp_path: Path) -> None:
    model, inputs = made(name)
    model.eval()
    torch.jit.script(model).save(tmp_path / "model.pt")
    scripted = torch.jit.load(tmp_path / "model.pt")
    for call in (inputs, *((*inputs, padding) for padding in SMALL[name].padding)):
        torch.testing.assert_close(scripted(*call), model(*call))
    scripted.train()
    out = scripted(*inputs)
    out.sum().backward()
    assert all(p.grad is not None for p in scripted.parameters())
    with pytest.raises(torch.jit.Error, match="mask has shape"):
        scripted(*inputs, torch.ones(2, 2))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, _ = made("DeepResidualCNN")
    kind = type(model)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        kind.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a DeepResidualCNN, expected a CustomCNNModel"):
        type(made("CustomCNNModel")[0]).from_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("16", "17"))
    with pytest.raises(ValueError, match="does not fit this DeepResidualCNN"):
        kind.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="can't be read"):
        kind.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        kind.from_pretrained(tmp_path)


def test_saving_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from seo_kernels._extras import MissingExtraError

    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    model, _ = made("CustomRNNModel")
    with pytest.raises(MissingExtraError, match=r"seo_kernels\[models\]"):
        model.save_pretrained(tmp_path)
    with pytest.raises(MissingExtraError, match=r"seo_kernels\[models\]"):
        type(model).from_pretrained(tmp_path)
