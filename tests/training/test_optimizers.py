"""Who decays, who does not; the schedule from its first step to beyond its last."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels.nn.positional_encoding import PositionalEncoding
from seo_kernels.training import AdvancedOptimizers

CONFIG = SimpleNamespace(learning_rate=0.01, weight_decay=0.1, warmup_steps=10)


class Mixture(nn.Module):
    """A layer of each kind, an output that shares the embedding's weight, and something frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.output = nn.Linear(4, 9)
        self.output.weight = self.embedding.weight
        self.linear, self.conv = sk.nn.Linear(4, 4), nn.Conv1d(4, 4, 3)
        self.lora = sk.nn.LoRALinear(nn.Linear(4, 4), rank=2)
        self.recurrent, self.attention = nn.LSTM(4, 4), sk.nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)])
        self.positions = PositionalEncoding(4, 6)
        self.prompt = nn.Parameter(torch.zeros(3, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def decays(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float]:
    found = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups)
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[key]: decay for key, decay in found.items()}


def test_decay_is_decided_by_the_kind_of_module() -> None:
    model = Mixture()
    optimizer = AdvancedOptimizers.create_optimizer(model, CONFIG)
    found = decays(optimizer, model)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    decaying = {name for name, decay in found.items() if decay}
    assert decaying == {
        "embedding.weight",
        "linear.weight",
        "conv.weight",
        *(name for name in found if name.startswith("lora.") and name.endswith(("lora_a", "lora_b"))),
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert any("lora_a" in name for name in decaying)
    assert all(group["lr"] == 0.01 for group in optimizer.param_groups)
    assert {found[name] for name in decaying} == {0.1}


def test_a_shared_weight_decays_whoever_is_found_first() -> None:
    class Table(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight = weight

    linear = nn.Linear(3, 3, bias=False)
    for order in ([linear, Table(linear.weight)], [Table(linear.weight), linear]):
        model = nn.Sequential(*order)
        found = decays(AdvancedOptimizers.create_optimizer(model, CONFIG), model)
        assert list(found.values()) == [0.1]


def test_a_step_is_adamw() -> None:
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(model.state_dict())
    optimizer = AdvancedOptimizers.create_optimizer(model, CONFIG)
    groups = [{"params": [other.weight]}, {"params": [other.bias], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1, foreach=False)
    for each, stepper in ((model, optimizer), (other, plain)):
        for x in torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(1)):
            stepper.zero_grad()
            each(x).square().sum().backward()
            stepper.step()
    torch.testing.assert_close(list(model.parameters()), list(other.parameters()))


def rates(warmup: int, steps: int, count: int) -> list[float]:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=2.0)
    config = SimpleNamespace(warmup_steps=warmup)
    scheduler = AdvancedOptimizers.create_scheduler(optimizer, config, steps)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_warm_up_then_cosine_then_nothing() -> None:
    found = rates(4, 20, 25)
    expected = [0.5, 1.0, 1.5, 2.0] + [1 + math.cos(math.pi * k / 16) for k in range(16)] + [0.0] * 5
    assert found == pytest.approx(expected, abs=1e-12)
    assert rates(0, 2, 3) == pytest.approx([2.0, 1.0, 0.0])


def test_a_schedule_can_be_pickled_and_restored() -> None:
    optimizer = AdvancedOptimizers.create_optimizer(nn.Linear(2, 2), CONFIG)
    scheduler = AdvancedOptimizers.create_scheduler(optimizer, CONFIG, 50)
    for _ in range(17):
        optimizer.step()
        scheduler.step()
    again = pickle.loads(pickle.dumps(scheduler))
    fresh = AdvancedOptimizers.create_optimizer(nn.Linear(2, 2), CONFIG)
    restored = AdvancedOptimizers.create_scheduler(fresh, CONFIG, 50)
    restored.load_state_dict(scheduler.state_dict())
    for each in (scheduler, again, restored):
        each.optimizer.step()
        each.step()
    assert scheduler.get_last_lr() == again.get_last_lr() == restored.get_last_lr()


LINEAR = nn.Linear(2, 2)


def settings(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(CONFIG), **changes})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AdvancedOptimizers.create_optimizer([LINEAR], CONFIG), TypeError, "model is a list"),
        (
            lambda: AdvancedOptimizers.create_optimizer(LINEAR, {}),
            TypeError,
            "without 'learning_rate'",
        ),
        (
            lambda: AdvancedOptimizers.create_optimizer(nn.Linear(2, 2).requires_grad_(False), CONFIG),
            ValueError,
            "a Linear, has no parameter that requires a gradient",
        ),
        (
            lambda: AdvancedOptimizers.create_optimizer(LINEAR, settings(learning_rate=0.0)),
            ValueError,
            "config.learning_rate is 0.0",
        ),
        (
            lambda: AdvancedOptimizers.create_optimizer(LINEAR, settings(weight_decay=-1)),
            ValueError,
            "config.weight_decay is -1",
        ),
        (lambda: rates(5, 5, 1), ValueError, "warmup_steps is 5, expected fewer than num_training_steps=5"),
        (lambda: rates(-1, 5, 1), ValueError, "config.warmup_steps is -1"),
        (lambda: rates(0, 0, 1), ValueError, "num_training_steps is 0"),
    ],
)
def test_errors(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
