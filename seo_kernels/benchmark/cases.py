"""All cases, in the order of the table of figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from seo_kernels.benchmark.activation_cases import ActivationSizes, activation_cases
from seo_kernels.benchmark.attention_cases import AttentionSizes, attention_cases
from seo_kernels.benchmark.case import Case
from seo_kernels.benchmark.curvature_cases import CurvatureSizes, curvature_cases
from seo_kernels.benchmark.dropout_cases import DropoutSizes, dropout_cases
from seo_kernels.benchmark.linear_cases import LinearSizes, linear_cases
from seo_kernels.benchmark.loss_cases import LossSizes, loss_cases
from seo_kernels.benchmark.model_cases import ModelSizes, model_cases
from seo_kernels.benchmark.training_cases import TrainingSizes, training_cases
from seo_kernels.benchmark.watching_cases import WatchingSizes, watching_cases


@dataclass(frozen=True)
class Sizes:
    """What the cases are made of; the defaults are those that the published figures are for."""

    attention: AttentionSizes = field(default_factory=AttentionSizes)
    linear: LinearSizes = field(default_factory=LinearSizes)
    activation: ActivationSizes = field(default_factory=ActivationSizes)
    dropout: DropoutSizes = field(default_factory=DropoutSizes)
    loss: LossSizes = field(default_factory=LossSizes)
    model: ModelSizes = field(default_factory=ModelSizes)
    training: TrainingSizes = field(default_factory=TrainingSizes)
    watching: WatchingSizes = field(default_factory=WatchingSizes)
    curvature: CurvatureSizes = field(default_factory=CurvatureSizes)


def cases(sizes: Sizes | None = None) -> list[Case]:
    """Every case, in the order of the table of figures."""
    sizes = Sizes() if sizes is None else sizes
    return [
        *attention_cases(sizes.attention),
        *linear_cases(sizes.linear),
        *activation_cases(sizes.activation),
        *dropout_cases(sizes.dropout),
        *loss_cases(sizes.loss),
        *model_cases(sizes.model),
        *training_cases(sizes.training),
        *watching_cases(sizes.watching),
        *curvature_cases(sizes.curvature),
    ]
