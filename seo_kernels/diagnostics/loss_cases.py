"""The features of the losses that the gradient verification runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from seo_kernels.diagnostics.checked_op import CheckedOp, Feature, Problem, Size

IGNORED = -100


def ops() -> tuple[CheckedOp, ...]:
    """Every loss against its reference."""
    import seo_kernels as sk

    reference = sk.reference
    return (
        CheckedOp("cross_entropy", sk.cross_entropy, reference.cross_entropy, _cross_entropy_features()),
        CheckedOp("focal_loss", sk.focal_loss, reference.focal_loss, _focal_features()),
        CheckedOp("huber_loss", sk.huber_loss, reference.huber_loss, _huber_features()),
        CheckedOp(
            "linear_cross_entropy",
            sk.linear_cross_entropy,
            reference.linear_cross_entropy,
            _linear_features(),
        ),
    )


def _cross_entropy_features() -> tuple[Feature, ...]:
    return (
        Feature("class indices", _indexed()),
        Feature("ignored rows, sum", _indexed(ignored=True, reduction="sum")),
        Feature("ignored rows, weights, mean", _indexed(ignored=True, weighted="weight")),
        Feature(
            "label smoothing, weights, unreduced",
            _indexed(weighted="weight", label_smoothing=0.1, reduction="none"),
        ),
        Feature("images", _indexed(extra=(3, 2), ignored=True, label_smoothing=0.2)),
        Feature("transposed scores", _indexed(transposed=True)),
        Feature("class probabilities", _probabilities()),
        Feature(
            "class probabilities, label smoothing, weights",
            _probabilities(weighted=True, label_smoothing=0.1, reduction="none"),
        ),
    )


def _focal_features() -> tuple[Feature, ...]:
    return (
        Feature("gamma 2", _indexed()),
        Feature("gamma 0", _indexed(gamma=0.0)),
        Feature("gamma 0.5, alpha", _indexed(gamma=0.5, alpha=0.25, reduction="sum")),
        Feature(
            "gamma 3, alpha by class, ignored rows, unreduced",
            _indexed(gamma=3.0, weighted="alpha", ignored=True, reduction="none"),
        ),
    )


def _huber_features() -> tuple[Feature, ...]:
    return (
        Feature("mean", _huber()),
        Feature("sum, delta", _huber(delta=0.3, reduction="sum")),
        Feature("unreduced, weights", _huber(weighted=True, reduction="none")),
        Feature("weights, mean", _huber(weighted=True, delta=2.0)),
        Feature("broadcast target", _huber(broadcast=True)),
    )


def _linear_features() -> tuple[Feature, ...]:
    return (
        Feature("mean", _linear()),
        Feature("bias, ignored tokens, sum", _linear(bias=True, ignored=True, reduction="sum")),
        Feature(
            "bias, label smoothing, unreduced", _linear(bias=True, label_smoothing=0.1, reduction="none")
        ),
        Feature("transposed weight", _linear(transposed=True, ignored=True)),
        Feature("float32 bias", _linear(bias=True), wide=("bias",)),
    )


ProblemMaker = Callable[[Size, str], Problem]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _targets(shape: tuple[int, ...], classes: int, ignored: bool, device: str) -> Tensor:
    target = torch.randint(classes, shape, generator=_generator())
    if ignored:
        target.view(-1)[1::3] = IGNORED
    return target.to(device)


def _indexed(
    *,
    extra: tuple[int, ...] = (),
    ignored: bool = False,
    transposed: bool = False,
    weighted: str = "",
    **options: Any,
) -> ProblemMaker:
    """Scores and class indices; ``weighted`` names the argument that takes a number per class."""

    def problem(size: Size, device: str) -> Problem:
        rows, classes = (4, 3) if size == "tiny" else (67, 1100)
        shape = (classes, rows) if transposed else (rows, classes, *extra)
        scores = 2 * torch.randn(shape, generator=_generator(), dtype=torch.float64)
        target = _targets((rows, *extra), classes, ignored, device)

        def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            input = values["input"].t() if transposed else values["input"]
            rest = dict(options)
            if weighted:
                rest[weighted] = _class_weights(classes, input)
            return (function(input, target, **rest),)

        return Problem({"input": scores}, call)

    return problem


def _probabilities(*, weighted: bool = False, **options: Any) -> ProblemMaker:
    def problem(size: Size, device: str) -> Problem:
        rows, classes = (3, 4) if size == "tiny" else (33, 1100)
        generator = _generator()
        scores, other = torch.randn(2, rows, classes, generator=generator, dtype=torch.float64).unbind()
        target = other.softmax(1)

        def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            weight = _class_weights(classes, values["input"]) if weighted else None
            return (function(values["input"], values["target"], weight, **options),)

        return Problem({"input": scores, "target": target}, call)

    return problem


def _class_weights(classes: int, like: Tensor) -> Tensor:
    weights = 0.5 + torch.rand(classes, generator=_generator(), dtype=torch.float64)
    return weights.to(like.device, like.dtype)


def _huber(*, weighted: bool = False, broadcast: bool = False, **options: Any) -> ProblemMaker:
    def problem(size: Size, device: str) -> Problem:
        shape = (3, 4) if size == "tiny" else (9, 1300)
        generator = _generator()
        input, target, weight = torch.randn(3, *shape, generator=generator, dtype=torch.float64).unbind()
        inputs = {"input": 2 * input, "target": target[:1] if broadcast else target}
        if weighted:
            inputs["weight"] = weight.abs()

        def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            return (function(values["input"], values["target"], weight=values.get("weight"), **options),)

        return Problem(inputs, call)

    return problem


def _linear(
    *, bias: bool = False, ignored: bool = False, transposed: bool = False, **options: Any
) -> ProblemMaker:
    def problem(size: Size, device: str) -> Problem:
        tokens, dim, classes = (4, 3, 5) if size == "tiny" else (203, 45, 700)
        generator = _generator()

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        weight = draw(dim, classes) if transposed else draw(classes, dim)
        inputs = {"hidden": draw(tokens, dim), "weight": weight / dim**0.5}
        if bias:
            inputs["bias"] = draw(classes)
        target = _targets((tokens,), classes, ignored, device)

        def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            weight = values["weight"].t() if transposed else values["weight"]
            return (function(values["hidden"], weight, target, values.get("bias"), **options),)

        return Problem(inputs, call)

    return problem
