"""What turns text into token ids and back: bytes, or a tokenizer of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from seo_kernels._extras import require

BYTES = 256
PAD_TOKEN = "<|pad|>"


class TokenCoder(Protocol):
    """Text and token ids; ids are below ``len(coder)``."""

    @property
    def pad_token_id(self) -> int: ...

    @property
    def eos_token_id(self) -> int | None: ...

    def __len__(self) -> int: ...

    def encode(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        """The ids of each text, those beyond max_length left out."""

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The text of each row; special tokens are left out."""


class ByteCoder:
    """A token for each byte of UTF-8, then one that pads and one that ends a text.

    >>> coder = ByteCoder()
    >>> coder.encode(["né"], None)
    [[110, 195, 169]]
    >>> coder.decode([[110, 195, 169, coder.eos_token_id, coder.pad_token_id]])
    ['né']
    """

    pad_token_id = BYTES
    eos_token_id = BYTES + 1

    def __len__(self) -> int:
        return BYTES + 2

    def encode(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        return [list(text.encode()[:max_length]) for text in texts]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Bytes that are no UTF-8 become U+FFFD."""
        return [bytes(i for i in row if i < BYTES).decode(errors="replace") for row in rows]


class HubCoder:
    """A tokenizer of transformers. Where it has no token that pads, the one that ends a text does.

    Args:
        tokenizer: of ``transformers.AutoTokenizer``; given a token that pads if it has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token_id is None:
                tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
            else:
                tokenizer.pad_token = tokenizer.eos_token
        self.tokenizer = tokenizer

    @property
    def pad_token_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    @property
    def eos_token_id(self) -> int | None:
        return None if self.tokenizer.eos_token_id is None else int(self.tokenizer.eos_token_id)

    def __len__(self) -> int:
        return len(self.tokenizer)

    def encode(self, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
        cut = max_length is not None
        # verbose: no word about lengths that the caller checks
        coded = self.tokenizer(list(texts), truncation=cut, max_length=max_length, verbose=False)
        return [list(row) for row in coded["input_ids"]]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return list(self.tokenizer.batch_decode(list(rows), skip_special_tokens=True))


def load_coder(name: str) -> TokenCoder:
    """The bytes for "byte", else the tokenizer of that folder or of that name on the Hugging Face hub.

    Raises:
        MissingExtraError: transformers is not installed.
        OSError: there is no such folder, and no such tokenizer on the hub, or no network.
        ValueError: a folder without a tokenizer.
    """
    if name == "byte":
        return ByteCoder()
    transformers = require("transformers", extra="models", purpose=f"load the tokenizer {name!r}")
    try:
        return HubCoder(transformers.AutoTokenizer.from_pretrained(name))
    except (OSError, ValueError) as error:
        if Path(name).is_dir():
            raise ValueError(
                f"model_name is {name!r}, a folder that transformers finds no tokenizer in, expected one "
                f"that a tokenizer's save_pretrained wrote: {error}"
            ) from error
        raise OSError(
            f"model_name is {name!r}: there is no such folder here, and the Hugging Face hub did not give a "
            "tokenizer of that name. Without a network, name a folder that a tokenizer's save_pretrained "
            f'wrote, or take the built-in "byte". ({error})'
        ) from error
