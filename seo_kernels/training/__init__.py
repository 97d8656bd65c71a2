"""What trains the documented models: one engine and its parts, losses, optimizers, tokenizer, pipeline."""

from seo_kernels.training.autograd_optimizer import AutogradOptimizer
from seo_kernels.training.autograd_system import AutogradTrainingSystem
from seo_kernels.training.autograd_training_loop import AutogradTrainingLoop
from seo_kernels.training.autotuning import autotune
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
from seo_kernels.training.system_config import ConfigError, load_config
from seo_kernels.training.tokenizer import AdvancedTokenizer
from seo_kernels.training.torch_manager import TorchManager, pytorch_manager
from seo_kernels.training.training_config import TrainingConfig
from seo_kernels.training.training_history import EpochResult, StepResult, TrainingHistory
from seo_kernels.training.tuning_report import TrainingSettings, TuningReport, TuningRow

__all__ = [
    "AdvancedLossFunctions",
    "AdvancedOptimizers",
    "AdvancedTokenizer",
    "AdvancedTrainingPipeline",
    "AutogradOptimizer",
    "AutogradTrainingLoop",
    "AutogradTrainingSystem",
    "Clipping",
    "ConfigError",
    "CustomSEOModelTrainer",
    "EngineSettings",
    "EpochResult",
    "ExponentialMovingAverage",
    "GradientAccumulator",
    "GradientClipper",
    "NonFiniteError",
    "StepResult",
    "TorchManager",
    "TrainingConfig",
    "TrainingEngine",
    "TrainingHistory",
    "TrainingSettings",
    "TuningReport",
    "TuningRow",
    "autotune",
    "load_config",
    "pytorch_manager",
]
