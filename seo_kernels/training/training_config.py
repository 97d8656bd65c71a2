"""What the trainer of the SEO models is configured with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from seo_kernels.models.seo_config import CustomModelConfig
from seo_kernels.nn.sizes import check_choice, check_flag, check_not_negative, check_positive, check_size
from seo_kernels.ops.checks import kind
from seo_kernels.training.engine_settings import Clipping, EngineSettings
from seo_kernels.training.precision import best_precision
from seo_kernels.training.schedules import SCHEDULES

MODEL_TYPES = ("custom", "multi_task")


@dataclass(frozen=True)
class TrainingConfig:
    """Configuration of a ``CustomSEOModelTrainer``; made once, not changed.

    Args:
        model_type: "custom", a ``CustomSEOModel``; "multi_task", a ``CustomMultiTaskSEOModel``.
        num_classes: of the first; the tasks of the second have their own.
        batch_size: of datasets that the trainer is given; loaders have their own.
        learning_rate: the largest, above 0.
        use_mixed_precision: autocast to bfloat16, or on GPUs without it to float16 with scaled losses.
        model_config: of the encoder; None: a ``CustomModelConfig`` of its defaults with ``num_classes``.
        task_configs: of "multi_task", as ``CustomMultiTaskSEOModel`` takes them.
        weight_decay: of AdamW; see ``AdvancedOptimizers.create_optimizer`` for what decays.
        num_epochs: that ``fit`` trains.
        schedule: of the rate after the warm-up: "constant", "linear" or "cosine" to 0.
        warmup_steps: updates in which the rate rises.
        num_training_steps: updates after which "linear" and "cosine" are 0; None: ``num_epochs`` of the first
            loader.
        max_grad_norm: gradients are clipped to it; None: they are not.
        accumulation_steps, ema_decay, non_finite, checkpoint_every, seed, progress: as in ``EngineSettings``;
            the seed is that of the model's first parameters, too.
        early_stopping_patience: epochs without a better validation loss, after which ``fit`` stops; None: it
            does not.
        device: a torch device's name; None: a GPU where there is one.

    Raises:
        TypeError, ValueError: a value that is none of these, or two that contradict each other.

    >>> TrainingConfig(num_classes=5, learning_rate=3e-4).schedule
    'constant'
    """

    model_type: str = "custom"
    num_classes: int = 3
    batch_size: int = 16
    learning_rate: float = 1e-4
    use_mixed_precision: bool = True
    model_config: CustomModelConfig | None = None
    task_configs: Mapping[str, Mapping[str, Any]] | None = None
    weight_decay: float = 0.01
    num_epochs: int = 3
    schedule: str = "constant"
    warmup_steps: int = 0
    num_training_steps: int | None = None
    max_grad_norm: float | None = 1.0
    accumulation_steps: int = 1
    ema_decay: float | None = None
    non_finite: str = "skip"
    checkpoint_every: int | None = None
    seed: int | None = None
    progress: bool = True
    early_stopping_patience: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        check_choice("model_type", self.model_type, MODEL_TYPES)
        for size in ("num_classes", "batch_size", "num_epochs"):
            check_size(size, getattr(self, size))
        for size in ("num_training_steps", "early_stopping_patience"):
            if getattr(self, size) is not None:
                check_size(size, getattr(self, size))
        check_positive("learning_rate", self.learning_rate)
        check_not_negative("weight_decay", self.weight_decay)
        check_flag("use_mixed_precision", self.use_mixed_precision)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_size("warmup_steps", self.warmup_steps, least=0)
        if self.max_grad_norm is not None:
            check_positive("max_grad_norm", self.max_grad_norm)
        self._check_model()
        self.torch_device()
        self.engine_settings("no")

    @classmethod
    def of_model(cls, config: CustomModelConfig) -> TrainingConfig:
        """The defaults, for such a model."""
        return cls(num_classes=config.num_classes, model_config=config)

    def encoder_config(self) -> CustomModelConfig:
        """``model_config``, or the defaults with ``num_classes``."""
        return self.model_config or CustomModelConfig(num_classes=self.num_classes)

    def torch_device(self) -> torch.device:
        """Where the model is trained."""
        if self.device is None:
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if not isinstance(self.device, str):
            raise TypeError(f"device is {kind(self.device)}, expected a device's name or None")
        try:
            return torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device is {self.device!r}, expected one that torch knows: {error}") from error

    def engine_settings(self, mixed_precision: str | None = None) -> EngineSettings:
        """Of the engine; ``mixed_precision`` None: by ``use_mixed_precision`` and the device."""
        if mixed_precision is None:
            half = "bf16" if best_precision(self.torch_device()) == torch.bfloat16 else "fp16"
            mixed_precision = half if self.use_mixed_precision else "no"
        return EngineSettings(
            mixed_precision=mixed_precision,
            accumulation_steps=self.accumulation_steps,
            clipping=None if self.max_grad_norm is None else Clipping("norm", self.max_grad_norm),
            non_finite=self.non_finite,
            ema_decay=self.ema_decay,
            checkpoint_every=self.checkpoint_every,
            seed=self.seed,
            progress=self.progress,
        )

    def _check_model(self) -> None:
        config = self.model_config
        if config is not None and not isinstance(config, CustomModelConfig):
            raise TypeError(f"model_config is {kind(config)}, expected a CustomModelConfig or None")
        multi_task = self.model_type == "multi_task"
        if multi_task != (self.task_configs is not None):
            expected = "some for" if multi_task else "None but for"
            given = "None" if self.task_configs is None else kind(self.task_configs)
            raise ValueError(f"task_configs is {given}, expected {expected} model_type='multi_task'")
        if config is not None and not multi_task and config.num_classes != self.num_classes:
            raise ValueError(
                f"num_classes is {self.num_classes}, expected the {config.num_classes} of model_config"
            )
