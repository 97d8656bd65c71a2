"""How well held-out text is predicted, in bits per byte, and what simpler predictors need."""

import math
import zlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from seo_kernels.demo.model import Attend, ByteModel
from seo_kernels.demo.train import precision_context, to_tokens

BATCH = 4


def bits_per_byte(model: ByteModel, text: bytes, length: int, attend: Attend, precision: str) -> float:
    """``held_out_bits`` of a byte model, with all that it can see before a byte, or length // 2."""

    def predict(tokens: Tensor) -> Tensor:
        with precision_context(precision):
            logits: Tensor = model(tokens, attend)[0]
        return logits

    model.eval()
    bits = held_out_bits(predict, text, length, min(model.config.reach, length // 2))
    model.train()
    return bits


@torch.no_grad()
def held_out_bits(predict: Callable[[Tensor], Tensor], text: bytes, length: int, context: int) -> float:
    """Bits per byte of ``text``; every byte is predicted once.

    Pieces of ``length`` bytes overlap, so that all but the first bytes of the text have at least ``context``
    bytes before them. The very first byte counts 8 bits.

    Args:
        predict: from bytes (B, T) to the logits (B, T, 256 or more) of the byte after each.
    """
    tokens = to_tokens(text)
    starts = list(range(0, max(len(tokens) - 1 - context, 1), length - context))
    bits = 8.0
    for piece in range(0, len(starts), BATCH):
        group = starts[piece : piece + BATCH]
        # the last piece is shorter: it is filled with zeros, which come after all that is counted
        rows = [tokens[start : start + length + 1] for start in group]
        filled = torch.stack([F.pad(row, (0, length + 1 - len(row))) for row in rows])
        logits = predict(filled[:, :-1]).float()
        losses = F.cross_entropy(logits.transpose(1, 2), filled[:, 1:], reduction="none")  # (B, length)
        for start, row, loss in zip(group, rows, losses, strict=True):
            first = 0 if start == 0 else context
            bits += float(loss[first : len(row) - 1].sum()) / math.log(2)
    return bits / len(tokens)


def unigram_bits_per_byte(text: bytes) -> float:
    """The entropy of the byte frequencies of ``text`` itself: what a coder without context would need."""
    counts = torch.bincount(to_tokens(text), minlength=256).double()
    shares = counts[counts > 0] / len(text)
    return float(-(shares * shares.log2()).sum())


def zlib_bits_per_byte(text: bytes) -> float:
    """The size of ``zlib -9`` on ``text``."""
    return 8 * len(zlib.compress(text, 9)) / len(text)
