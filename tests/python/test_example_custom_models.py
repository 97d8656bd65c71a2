"""The tour runs, with few updates, and says what it says by default."""

import example_custom_models
import pytest


@pytest.mark.usefixtures("one_thread")
def test_the_tour(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    example_custom_models.main(steps=3)
    shown = capsys.readouterr().out
    for words in (
        "paragraphs to learn from",
        "CustomModelConfig(model_name='topic_classifier'",
        "what is wrong is said: pooling_strategy is 'sum'",
        "held-out accuracy",
        "other words in the padding, the same logits: True",
        "the same padding as pairs, the same logits: True",
        "outputs: {'topic': ",
        "the largest of",
        "with checkpointing",
        "topic_classifier, the same logits: True",
    ):
        assert words in shown, words
    assert "nan" not in shown
