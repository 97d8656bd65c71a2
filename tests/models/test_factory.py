"""Models by name and configuration."""

import pytest
import torch

from seo_kernels.models import MODEL_CONFIGS, ModelFactory
from seo_kernels.models.factory import MODELS

SMALLER = {"vocab_size": 20, "d_model": 8, "n_heads": 2, "d_ff": 8, "n_layers": 1}


def test_every_configuration_makes_its_model() -> None:
    assert MODEL_CONFIGS.keys() == MODELS.keys()
    assert "transformer" in MODEL_CONFIGS
    for name, config in MODEL_CONFIGS.items():
        with torch.device("meta"):
            model = ModelFactory.create_model(name, config)
        assert type(model) is MODELS[name]
        assert model.arguments == config


def test_a_configuration_of_the_users() -> None:
    model = ModelFactory.create_model("transformer", SMALLER)
    assert model(torch.randint(20, (2, 5))).shape == (2, 5, 8)


def test_errors_list_what_is_known() -> None:
    with pytest.raises(ValueError, match="model_type is 'trnsformer', expected one of transformer, cnn_"):
        ModelFactory.create_model("trnsformer", {})
    with pytest.raises(TypeError, match="model_type is an int"):
        ModelFactory.create_model(3, {})
    with pytest.raises(
        ValueError, match="has n_head, heads, expected keys out of vocab_size, d_model, n_layers"
    ):
        ModelFactory.create_model("transformer", {"vocab_size": 5, "n_head": 3, "heads": 2})
    with pytest.raises(ValueError, match="lacks vocab_size, task_configs, expected keys out of vocab_size"):
        ModelFactory.create_model("multi_task", {"d_model": 8})
    with pytest.raises(TypeError, match="config is a list"):
        ModelFactory.create_model("transformer", [])
    with pytest.raises(ValueError, match="d_model is 8 for n_heads=3"):
        ModelFactory.create_model("transformer", SMALLER | {"n_heads": 3})
