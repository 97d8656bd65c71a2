"""What trains the documented models: losses, optimizer and schedule, tokenizer, pipeline."""

from seo_kernels.training.loss_functions import AdvancedLossFunctions
from seo_kernels.training.optimizers import AdvancedOptimizers
from seo_kernels.training.pipeline import AdvancedTrainingPipeline
from seo_kernels.training.tokenizer import AdvancedTokenizer

__all__ = ["AdvancedLossFunctions", "AdvancedOptimizers", "AdvancedTokenizer", "AdvancedTrainingPipeline"]
