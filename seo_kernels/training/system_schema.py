"""The keys of an ``AutogradTrainingSystem``'s configuration, and what each does. Needs pydantic."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["no", "bf16", "fp16"]


class Section(BaseModel):
    """Values are of the type that is asked for, and not converted; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class GradientMonitoring(Section):
    """How gradients are watched.

    Args:
        enabled: a ``GradientMonitor`` sees the gradients of every backward pass.
        save_gradient_history: it remembers those of past passes too, and ``save_report`` writes them; else
            the latest ones only.
    """

    enabled: bool = True
    save_gradient_history: bool = True


class AdvancedFeatures(Section):
    """What goes beyond first-order gradients of torch's own operations.

    Args:
        higher_order_gradients: ``compute_higher_order_gradients`` may be called; else it refuses.
        custom_gradients: the system's ``functions`` (linear, product, relu, leaky_relu, huber_loss) are those
            with hand-written gradients, on this library's kernels; else torch's own, of the same values.
        gradient_checkpointing: the model's ``gradient_checkpointing_enable`` is called: layers are computed
            again in the backward pass, and take less memory.
    """

    higher_order_gradients: bool = True
    custom_gradients: bool = True
    gradient_checkpointing: bool = False


class Performance(Section):
    """How fast, and in how much memory.

    Args:
        mixed_precision: true or "bf16" autocasts to bfloat16, "fp16" to float16 with scaled losses; false or
            "no" does not.
        compile: the model is called through ``torch.compile``.
        channels_last: convolutions, and batches of images, are laid out channels last.
        accumulation_steps: batches that make one update, at least 1.
    """

    mixed_precision: bool | Precision = False
    compile: bool = False
    channels_last: bool = False
    accumulation_steps: int = Field(default=1, ge=1)

    @property
    def precision(self) -> Precision:
        """``mixed_precision`` by its name."""
        if isinstance(self.mixed_precision, bool):
            return "bf16" if self.mixed_precision else "no"
        return self.mixed_precision


class AutogradSystemConfig(Section):
    """All of it; the defaults are those of the documented file.

    Args:
        enable_gradients: parameters that require gradients get them; false freezes all of them, and the
            system only evaluates.
        gradient_monitoring, advanced_features, performance: see there.

    >>> AutogradSystemConfig(performance=Performance(mixed_precision=True)).performance.precision
    'bf16'
    """

    enable_gradients: bool = True
    gradient_monitoring: GradientMonitoring = GradientMonitoring()
    advanced_features: AdvancedFeatures = AdvancedFeatures()
    performance: Performance = Performance()


class ConfigFile(Section):
    """What a file has at its top."""

    autograd_system: AutogradSystemConfig
