"""Tokenizers of transformers, made on the spot: nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = ["hello", "world", "the", "quick", "fox", "jumps"]


def word_tokenizer(folder: Path, **special: str) -> Path:
    """A folder with a tokenizer that has an id for each word and each special token, and an unknown one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = ["[UNK]", *special.values(), *WORDS]
    vocabulary: dict[str, int] = {word: i for i, word in enumerate(entries)}
    words: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special).save_pretrained(folder)
    return folder
