"""Every planted fault is found and named; a sound training gives no finding."""

import pytest
import torch

from seo_kernels.diagnostics import planted_faults
from seo_kernels.diagnostics.gradient_norms import gradient_norms
from seo_kernels.diagnostics.planted_faults import FAULTS, PLACE, STEP, Fault, Training


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_faults_are_found(fault: Fault) -> None:
    result = planted_faults.run_fault(fault)
    assert result.passed, result
    assert result.found.startswith(f"{PLACE}.")
    assert f"at step {STEP}" in result.found


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_without_the_fault_there_is_nothing_to_find(fault: Fault) -> None:
    harmless = Fault(fault.name, fault.kinds, lambda out: out, fault.traced)
    result = planted_faults.run_fault(harmless)
    assert not result.passed
    assert result.found == "nothing"


def test_a_finding_too_early_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    plant = planted_faults.FaultModel.plant
    spoil = FAULTS[0].spoil
    monkeypatch.setattr(planted_faults.FaultModel, "plant", lambda model, _: plant(model, spoil))
    assert not planted_faults.run_fault(FAULTS[0]).passed


def test_healthy_steps_give_no_finding() -> None:
    result = planted_faults.run_healthy(50)
    assert result.passed, result
    assert result.found == "nothing"


def test_the_healthy_training_learns_and_has_biases_that_do_nothing() -> None:
    """So that it is a training, and one that a threshold alone would call ill."""
    training = Training()
    losses = [training.step() for _ in range(100)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    norms = gradient_norms(training.model).by_name()
    assert min(norm for name, norm in norms.items() if name.endswith("w_k.bias")) < 1e-8


def test_the_table() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    results = planted_faults.run_selftest(healthy_steps=20)
    assert [result.fault for result in results] == [
        *(fault.name for fault in FAULTS),
        "backward that is 1 % off",
        planted_faults.HEALTHY,
    ]
    assert all(result.passed for result in results), results
    assert f"{PLACE}.weight: float64 gradient disagrees" in results[-2].found
    assert results[-1].planted_in == "20 healthy steps"
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_a_thousand_healthy_steps_give_no_finding() -> None:
    assert planted_faults.run_healthy(1000).passed
