"""A tour of ``custom_models`` on real text: ``python -m example_custom_models``, in less than a minute.

It learns which topic of CPython's language reference a paragraph comes from, a word being a token.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pydoc_data.topics import topics

import torch
from custom_models import CustomModelConfig, CustomSEOModel, create_custom_model, create_multi_task_model
from torch import Tensor

TOPICS = ("formatstrings", "debugger", "string-methods", "specialnames")
LENGTH = 48  # words of a paragraph that are read
PADDING, UNKNOWN = 0, 1
Batch = dict[str, Tensor]


def main(steps: int = 60) -> None:
    """All of the tour.

    Args:
        steps: updates of each model that is trained.
    """
    torch.manual_seed(0)
    train, held_out, vocabulary = read_paragraphs()
    config = configure(vocabulary)
    model = train_a_classifier(config, train, held_out, steps)
    hide_words(model, held_out, vocabulary)
    train_several_tasks(config, train, held_out, steps)
    apply_gradients_by_name(model, train)
    checkpoint(config, train)
    save_and_load(model, held_out)


def read_paragraphs() -> tuple[Batch, Batch, dict[str, int]]:
    """Batches to learn from and to be tested on, and the number of each known word."""
    headline("Paragraphs of the language reference, labelled by topic")
    samples = [
        (paragraph.lower().split(), label)
        for label, topic in enumerate(TOPICS)
        for paragraph in topics[topic].split("\n\n")
        if len(paragraph.split()) >= 8
    ]
    learned = [sample for number, sample in enumerate(samples) if number % 5]
    counts = Counter(word for words, _ in learned for word in words)
    known = [word for word, count in counts.items() if count > 1]
    vocabulary = {word: number for number, word in enumerate(known, start=UNKNOWN + 1)}
    train, held_out = to_batch(learned, vocabulary), to_batch(samples[::5], vocabulary)
    print(f"{len(learned)} paragraphs to learn from, {len(samples[::5])} held out, {len(known)} known words")
    print(f"topics: {dict(zip(TOPICS, train['labels'].bincount().tolist(), strict=True))}")
    return train, held_out, vocabulary


def to_batch(samples: list[tuple[list[str], int]], vocabulary: dict[str, int]) -> Batch:
    input_ids = torch.full((len(samples), LENGTH), PADDING)
    for row, (words, _) in enumerate(samples):
        numbers = [vocabulary.get(word, UNKNOWN) for word in words[:LENGTH]]
        input_ids[row, : len(numbers)] = torch.tensor(numbers)
    labels = torch.tensor([label for _, label in samples])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PADDING).float(), "labels": labels}


def configure(vocabulary: dict[str, int]) -> CustomModelConfig:
    headline("Configuration")
    config = CustomModelConfig(
        model_name="topic_classifier",
        num_classes=len(TOPICS),
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        max_length=LENGTH,
        activation_function="gelu",
        initialization_method="xavier",
        vocab_size=len(vocabulary) + 2,
        pooling_strategy="attention",
    )
    print(config)
    try:
        CustomModelConfig(pooling_strategy="sum")
    except ValueError as error:
        print(f"what is wrong is said: {error}")
    return config


def train_a_classifier(
    config: CustomModelConfig, train: Batch, held_out: Batch, steps: int
) -> CustomSEOModel:
    headline("CustomSEOModel: a batch with labels gives the loss, one without gives logits")
    model = create_custom_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    for step in range(steps):
        loss = model(draw(train))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % max(steps // 4, 1) == 0:
            print(f"step {step:3}: loss {loss.item():.3f}")
    right = accuracy(model.eval()(held_out["input_ids"], held_out["attention_mask"]), held_out["labels"])
    majority = held_out["labels"].bincount().max().item() / len(held_out["labels"])
    print(f"held-out accuracy {right:.2f}; the most frequent topic alone {majority:.2f}")
    return model


def draw(data: Batch, size: int = 32) -> Batch:
    rows = torch.randint(len(data["labels"]), (size,))
    return {name: value[rows] for name, value in data.items()}


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).float().mean().item()


@torch.no_grad()
def hide_words(model: CustomSEOModel, held_out: Batch, vocabulary: dict[str, int]) -> None:
    headline("Masks: 1 attends, 0 hides, whatever the dtype; (B, S) for padding, (B, S, S) for pairs")
    input_ids, mask = held_out["input_ids"][:2], held_out["attention_mask"][:2]
    other = input_ids.masked_fill(mask == 0, len(vocabulary))
    same = torch.equal(model(input_ids, mask), model(other, mask.bool()))
    print(f"other words in the padding, the same logits: {same}")
    pairs = mask[:, None] * mask[:, :, None]
    close = torch.allclose(model(input_ids, pairs), model(input_ids, mask), atol=1e-5)
    print(f"the same padding as pairs, the same logits: {close}")
    print(f"nothing but padding: {model(input_ids, torch.zeros_like(mask))[0].tolist()}")


def train_several_tasks(config: CustomModelConfig, train: Batch, held_out: Batch, steps: int) -> None:
    headline("CustomMultiTaskSEOModel: the topic, and whether the paragraph is a long one")
    tasks = {
        "topic": {
            "num_classes": len(TOPICS),
            "loss_type": "cross_entropy",
            "pooling_strategy": "mean",
            "use_attention_pooling": True,
        },
        "long": {"num_classes": 1, "loss_type": "binary_cross_entropy"},
    }
    model = create_multi_task_model(config, tasks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = draw(train)
        outputs = model(batch["input_ids"], batch["attention_mask"])
        loss = model.compute_multi_task_loss(outputs, {"topic": batch["labels"], "long": is_long(batch)})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    outputs = model.eval()(held_out["input_ids"], held_out["attention_mask"])
    print(f"outputs: { {name: tuple(output.shape) for name, output in outputs.items()} }")
    right = ((outputs["long"].squeeze(1) > 0) == is_long(held_out)).float().mean().item()
    print(f"held-out accuracy: topic {accuracy(outputs['topic'], held_out['labels']):.2f}, long {right:.2f}")


def is_long(batch: Batch) -> Tensor:
    return batch["attention_mask"].sum(1) > LENGTH / 2


def apply_gradients_by_name(model: CustomSEOModel, train: Batch) -> None:
    headline("Gradients by name: only the head is trained further")
    batch = draw(train)
    gradients = model.compute_gradients(model(batch))
    largest = max(gradients, key=lambda name: gradients[name].norm().item())
    print(f"{len(gradients)} gradients, the largest of {largest}")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = model(batch).item()
    model.apply_gradients({name: g for name, g in gradients.items() if name.startswith("head.")}, optimizer)
    print(f"loss of that batch before {before:.4f}, after {model(batch).item():.4f}")


def checkpoint(config: CustomModelConfig, train: Batch) -> None:
    headline("Gradient checkpointing: layers are computed again in backward, less is kept for it")
    model, batch = create_custom_model(config), draw(train)
    kept = bytes_kept(model, batch) / 2**20
    model.gradient_checkpointing_enable()  # or gradient_checkpointing=True in the configuration
    print(f"kept for backward: {kept:.1f} MiB, with checkpointing {bytes_kept(model, batch) / 2**20:.1f} MiB")


def bytes_kept(model: CustomSEOModel, batch: Batch) -> int:
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch)
    return sum(sizes)


def save_and_load(model: CustomSEOModel, held_out: Batch) -> None:
    headline("Saved to a folder (JSON and safetensors), and loaded from it")
    with tempfile.TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
        except ImportError as error:
            print(error)
            return
        loaded = CustomSEOModel.from_pretrained(folder)
    inputs = held_out["input_ids"], held_out["attention_mask"]
    print(f"{loaded.config.model_name}, the same logits: {torch.equal(loaded(*inputs), model(*inputs))}")


def headline(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


if __name__ == "__main__":
    main()
