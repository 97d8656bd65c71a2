"""Document 000's multi-task model: heads, losses; errors in the user's words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.small_models import BATCH, MASK, SEO_TASKS, ids, seo_config
from torch import Tensor

import seo_kernels as sk
from seo_kernels.models import CustomMultiTaskSEOModel
from seo_kernels.nn.pooling import AttentionPooling, FirstPooling, MaxPooling, MeanPooling

pytestmark = pytest.mark.usefixtures("one_thread")
TARGETS = {
    "topic": torch.tensor([4, 0, 1]),
    "rare": torch.tensor([[3], [0], [2]]),
    "tags": torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 1]]),
    "relevance": torch.tensor([True, False, True]),
    "quality": torch.tensor([0.5, -3.0, 8.0], dtype=torch.float64),
}


def multi_task(tasks: Any = SEO_TASKS, **options: Any) -> CustomMultiTaskSEOModel:
    return CustomMultiTaskSEOModel(seo_config(dropout=0.0, **options), tasks)


def test_heads_of_the_tasks() -> None:
    model = multi_task()
    outputs = model(ids(), MASK)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        name: (BATCH, task["num_classes"]) for name, task in SEO_TASKS.items()
    }
    pools = {name: [type(pool) for pool in head.pools] for name, head in model.heads.items()}
    assert pools == {
        "topic": [MeanPooling],  # the configuration's
        "rare": [MaxPooling],
        "tags": [FirstPooling, AttentionPooling],
        "relevance": [AttentionPooling],
        "quality": [MeanPooling],
    }
    joined = {**SEO_TASKS["relevance"], "use_attention_pooling": True}
    assert len(multi_task({"relevance": joined}).heads["relevance"].pools) == 1
    assert isinstance(multi_task(pooling_strategy="max").heads["topic"].pools[0], MaxPooling)


def test_the_loss_is_the_sum_of_the_tasks() -> None:
    model = multi_task()
    outputs = model(ids(), MASK)
    expected = {
        "topic": F.cross_entropy(outputs["topic"], TARGETS["topic"]),
        "rare": sk.reference.focal_loss(outputs["rare"], TARGETS["rare"][:, 0]),
        "tags": F.binary_cross_entropy_with_logits(outputs["tags"], TARGETS["tags"].float()),
        "relevance": F.binary_cross_entropy_with_logits(
            outputs["relevance"][:, 0], TARGETS["relevance"].float()
        ),
        "quality": F.huber_loss(outputs["quality"][:, 0], TARGETS["quality"].float()),
    }
    loss = model.compute_multi_task_loss(outputs, TARGETS)
    torch.testing.assert_close(loss, torch.stack(list(expected.values())).sum())
    for name, value in expected.items():
        one = multi_task({name: SEO_TASKS[name]})
        torch.testing.assert_close(
            one.compute_multi_task_loss({name: outputs[name]}, {name: TARGETS[name]}), value
        )
    ours, theirs = (torch.autograd.grad(x, list(outputs.values())) for x in (loss, sum(expected.values())))
    torch.testing.assert_close(ours, theirs)


def test_large_logits_and_absent_labels() -> None:
    model = multi_task({name: SEO_TASKS[name] for name in ("topic", "relevance")})
    outputs = {
        "topic": torch.randn(3, 5, requires_grad=True),
        "relevance": torch.tensor([[200.0], [-200.0], [0.0]]),
    }
    loss = model.compute_multi_task_loss(
        outputs, {"topic": torch.full((3,), -100), "relevance": torch.tensor([[0], [0], [1]])}
    )
    torch.testing.assert_close(loss, (torch.tensor(200.0) + torch.tensor(2.0).log()) / 3)
    loss.backward()
    assert not outputs["topic"].grad.any()


def loss_with(**targets: Any) -> Tensor:
    outputs = {name: torch.randn(BATCH, task["num_classes"]) for name, task in SEO_TASKS.items()}
    return multi_task().compute_multi_task_loss(outputs, {**TARGETS, **targets})


def without(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


OUTPUTS = {name: torch.zeros(BATCH, task["num_classes"]) for name, task in SEO_TASKS.items()}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: multi_task()(ids(), MASK - 1), ValueError, "attention_mask holds -1.0"),
        (
            lambda: loss_with(topic=torch.rand(3)),
            TypeError,
            r"targets\['topic'\] has dtype torch.float32, expected class ids \(batch=3,\) from 0 to 4, int64",
        ),
        (
            lambda: loss_with(topic=torch.tensor([0, 5, 1])),
            ValueError,
            r"targets\['topic'\] holds 5, expected",
        ),
        (lambda: loss_with(rare=torch.zeros(4).long()), ValueError, r"targets\['rare'\] has shape \(4,\)"),
        (
            lambda: loss_with(tags=torch.ones(3)),
            ValueError,
            r"targets\['tags'\] has shape \(3,\), expected numbers ",
        ),
        (
            lambda: loss_with(tags=TARGETS["tags"] * 2),
            ValueError,
            r"targets\['tags'\] holds 2.0, expected 0, 1",
        ),
        (lambda: loss_with(relevance=torch.tensor([0, 1, -1])), ValueError, "holds -1.0"),
        (lambda: loss_with(relevance=torch.full((3,), float("nan"))), ValueError, "holds nan"),
        (lambda: loss_with(quality=torch.ones(3, 2)), ValueError, r"or \(batch=3,\)"),
        (lambda: loss_with(quality=torch.ones(3, dtype=torch.complex64)), TypeError, "dtype torch.complex64"),
        (lambda: loss_with(quality=[1.0, 2.0, 3.0]), TypeError, r"targets\['quality'\] is a list"),
        (
            lambda: loss_with(topics=torch.ones(3)),
            ValueError,
            "targets has topics, expected the tasks topic, rare",
        ),
        (
            lambda: multi_task().compute_multi_task_loss(OUTPUTS, without(TARGETS, "tags")),
            ValueError,
            "targets lacks tags, expected the tasks",
        ),
        (
            lambda: multi_task().compute_multi_task_loss(without(OUTPUTS, "rare"), TARGETS),
            ValueError,
            "outputs lacks rare",
        ),
        (
            lambda: multi_task().compute_multi_task_loss({**OUTPUTS, "topic": torch.ones(3, 4)}, TARGETS),
            ValueError,
            r"outputs\['topic'\] has shape \(3, 4\), expected \(batch, 5\)",
        ),
        (
            lambda: multi_task().compute_multi_task_loss(torch.ones(3), TARGETS),
            TypeError,
            "outputs is a Tensor, expected one tensor for each of topic, rare",
        ),
        (lambda: multi_task({}), ValueError, "task_configs is {}"),
        (
            lambda: multi_task({"a": {"num_classes": 3}}),
            ValueError,
            r"task_configs\['a'\] has \['num_classes'\]",
        ),
        (
            lambda: multi_task({"a": {**SEO_TASKS["topic"], "type": "x"}}),
            ValueError,
            "expected the keys num_classes",
        ),
        (lambda: multi_task({"a.b": SEO_TASKS["topic"]}), ValueError, "expected a name without dots"),
        (
            lambda: multi_task({"a": {"num_classes": 3, "loss_type": "mse"}}),
            ValueError,
            r"\['loss_type'\] is 'mse', expected one of cross_entropy, focal, binary_cross_entropy, huber",
        ),
        (
            lambda: multi_task({"a": {"num_classes": 1, "loss_type": "cross_entropy"}}),
            ValueError,
            r"task_configs\['a'\]\['num_classes'\] is 1 for the loss 'cross_entropy', expected 2 or more",
        ),
        (lambda: multi_task({"a": {"num_classes": True, "loss_type": "huber"}}), TypeError, "is a bool"),
        (
            lambda: multi_task({"a": {**SEO_TASKS["topic"], "pooling_strategy": "sum"}}),
            ValueError,
            r"task_configs\['a'\]\['pooling_strategy'\] is 'sum'",
        ),
        (
            lambda: multi_task({"a": {**SEO_TASKS["topic"], "use_attention_pooling": "yes"}}),
            TypeError,
            r"\['use_attention_pooling'\] is a str \('yes'\)",
        ),
    ],
)
def test_bad_tasks(wrong: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()
