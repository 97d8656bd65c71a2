"""The documented trainer of text classifiers, by its documented import name. The work is in
``seo_kernels``."""

from seo_kernels.training import CustomSEOModelTrainer, TrainingConfig

__all__ = ["CustomSEOModelTrainer", "TrainingConfig"]
