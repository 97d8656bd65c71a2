"""What trains the documented models: one engine and its parts, losses, optimizers, tokenizer, pipeline."""

from seo_kernels.training.autograd_optimizer import AutogradOptimizer
from seo_kernels.training.autograd_training_loop import AutogradTrainingLoop
from seo_kernels.training.ema import ExponentialMovingAverage
from seo_kernels.training.engine import TrainingEngine
from seo_kernels.training.engine_settings import Clipping, EngineSettings
from seo_kernels.training.gradient_accumulator import GradientAccumulator
from seo_kernels.training.gradient_clipper import GradientClipper
from seo_kernels.training.loss_functions import AdvancedLossFunctions
from seo_kernels.training.non_finite import NonFiniteError
from seo_kernels.training.optimizers import AdvancedOptimizers
from seo_kernels.training.pipeline import AdvancedTrainingPipeline
from seo_kernels.training.seo_trainer import CustomSEOModelTrainer
from seo_kernels.training.tokenizer import AdvancedTokenizer
from seo_kernels.training.training_config import TrainingConfig
from seo_kernels.training.training_history import EpochResult, StepResult, TrainingHistory

__all__ = [
    "AdvancedLossFunctions",
    "AdvancedOptimizers",
    "AdvancedTokenizer",
    "AdvancedTrainingPipeline",
    "AutogradOptimizer",
    "AutogradTrainingLoop",
    "Clipping",
    "CustomSEOModelTrainer",
    "EngineSettings",
    "EpochResult",
    "ExponentialMovingAverage",
    "GradientAccumulator",
    "GradientClipper",
    "NonFiniteError",
    "StepResult",
    "TrainingConfig",
    "TrainingEngine",
    "TrainingHistory",
]
