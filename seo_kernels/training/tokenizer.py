"""Texts as rows of token ids that a model takes, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels.nn.sizes import check_choice, check_flag, check_size
from seo_kernels.ops.checks import kind
from seo_kernels.training.token_coders import load_coder

PADDINGS = ("max_length", "longest")


class AdvancedTokenizer:
    """Texts to padded token ids with their mask, by a tokenizer of transformers or as bytes.

    Args:
        model_name: a folder, a name on the Hugging Face hub, or "byte": the bytes of UTF-8 and two special
            tokens, which needs neither network nor transformers.
        max_length: tokens in a row at most.
        padding: "max_length", all rows have that many; "longest", as many as the longest text needs.
        truncation: leave out what is longer; False: an error.

    Raises:
        TypeError, ValueError: an argument of another kind, or out of range; a folder without a tokenizer.
        OSError: neither a folder nor a name that the hub knows, or no network.
        MissingExtraError: transformers is not installed.

    Rows are padded at their ends. Where a tokenizer has no token for that, as GPT-2's, its token for the end
    of a text pads; without either, a new token does, and ``len(tokenizer)`` counts it.

    >>> tokenizer = AdvancedTokenizer("byte", max_length=6)
    >>> tokenizer.tokenize_text(["four", "to"])["attention_mask"]
    tensor([[1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 0, 0]])
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] = "gpt2",
        max_length: int = 512,
        padding: str = "max_length",
        truncation: bool = True,
    ) -> None:
        if not isinstance(model_name, (str, os.PathLike)):
            raise TypeError(
                f"model_name is {kind(model_name)}, expected a folder, a name on the hub or 'byte'"
            )
        self.model_name = os.fspath(model_name)
        self.max_length = check_size("max_length", max_length)
        self.padding = check_choice("padding", padding, PADDINGS)
        self.truncation = check_flag("truncation", truncation)
        self.coder = load_coder(self.model_name)

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text; None where the tokenizer has none."""
        return self.coder.eos_token_id

    @property
    def pad_token_id(self) -> int:
        """The token that rows are filled with."""
        return self.coder.pad_token_id

    def __len__(self) -> int:
        """How many tokens there are, special and added ones included: the vocabulary that a model needs."""
        return len(self.coder)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.model_name!r}, max_length={self.max_length}, "
            f"padding={self.padding!r}, truncation={self.truncation})"
        )

    def tokenize_text(self, text: str | Sequence[str]) -> dict[str, Tensor]:
        """One text, or n of them.

        Returns:
            "input_ids" and "attention_mask" (1: token, 0: padding), int64 (n, max_length) each; (n, length of
            the longest) with padding="longest".

        Raises:
            TypeError: no text.
            ValueError: no text at all, an empty one, or without truncation one that is too long.
        """
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, (list, tuple)):
            raise TypeError(f"text is {kind(text)}, expected a str or a list of them")
        if not texts:
            raise ValueError("text is an empty list, expected at least one text")
        names = ["text"] if isinstance(text, str) else [f"text[{i}]" for i in range(len(texts))]
        rows = self._encode(texts, names, self.max_length if self.truncation else None)
        for name, row in zip(names, rows, strict=True):
            if len(row) > self.max_length:
                raise ValueError(
                    f"{name} has {len(row)} tokens, expected at most max_length={self.max_length}, or "
                    "truncation=True"
                )
        width = self.max_length if self.padding == "max_length" else max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([row + [self.pad_token_id] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}

    def encode(self, text: str) -> list[int]:
        """The ids of one text, however many: no padding, nothing left out.

        Raises:
            TypeError: no text.
            ValueError: an empty one.
        """
        return self._encode([text], ["text"], None)[0]

    def create_attention_mask(self, input_ids: Tensor) -> Tensor:
        """Ids (n, length) -> int64 (n, length): 0 where a row is padded, else 1.

        Where the token that pads also ends texts, it is padding from the row's last other token on, and a
        part of the text before.

        Raises:
            TypeError: no tensor of integers.
            ValueError: another shape.
        """
        _check_ids("input_ids", input_ids)
        if input_ids.dim() != 2:
            raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}, expected (n, length)")
        token = (input_ids != self.pad_token_id).long()
        if self.pad_token_id == self.eos_token_id:
            return token.flip(1).cummax(1).values.flip(1)
        return token

    def decode_tokens(self, token_ids: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """Ids (n, length) or (length,) -> n texts, or one; special tokens are left out.

        Raises:
            TypeError: no ids.
            ValueError: another shape, or an id out of the vocabulary.
        """
        if isinstance(token_ids, Tensor):
            _check_ids("token_ids", token_ids)
            if token_ids.dim() not in (1, 2):
                raise ValueError(
                    f"token_ids has shape {tuple(token_ids.shape)}, expected (n, length) or (length,)"
                )
            rows = (token_ids if token_ids.dim() == 2 else token_ids[None]).tolist()
        else:
            rows = _rows(token_ids)
        size = len(self)
        for token in (token for row in rows for token in row):
            if not 0 <= token < size:
                raise ValueError(f"token_ids holds {token}, expected 0 to {size - 1}")
        return self.coder.decode(rows)

    def _encode(self, texts: Sequence[str], names: Sequence[str], max_length: int | None) -> list[list[int]]:
        for name, text in zip(names, texts, strict=True):
            if not isinstance(text, str):
                raise TypeError(f"{name} is {kind(text)}, expected a str")
            if not text:
                raise ValueError(f"{name} is empty, expected at least one character")
        rows = self.coder.encode(texts, max_length)
        for name, text, row in zip(names, texts, rows, strict=True):
            if not row:
                raise ValueError(f"{name} is {text!r}, which has no tokens, expected at least one")
        return rows


def _rows(token_ids: Sequence[Sequence[int]]) -> list[list[int]]:
    expected = "expected a tensor (n, length) or a list of lists of ids"
    try:
        rows = [list(row) for row in token_ids]
    except TypeError:
        raise TypeError(f"token_ids is {kind(token_ids)}, {expected}") from None
    for token in (token for row in rows for token in row):
        if not isinstance(token, int):
            raise TypeError(f"token_ids holds {kind(token)}, {expected}")
    return rows


def _check_ids(name: str, ids: Tensor) -> None:
    if not isinstance(ids, Tensor):
        raise TypeError(f"{name} is {kind(ids)}, expected a tensor of token ids")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {ids.dtype}, expected token ids, int64")
