"""Text from the model, one byte at a time, with the keys and values of the window kept from byte to byte."""

import torch

from seo_kernels.demo.model import Attend, ByteModel
from seo_kernels.demo.train import to_tokens


@torch.no_grad()
def generate(
    model: ByteModel, prompt: bytes, length: int, attend: Attend, *, temperature: float = 0.7, seed: int = 0
) -> bytes:
    """``length`` bytes that follow ``prompt`` (not empty). A byte costs the same however long the text."""
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    logits, caches = model(to_tokens(prompt)[None], attend)
    text = bytearray()
    while len(text) < length:
        probabilities = (logits[0, -1].float() / temperature).softmax(0)
        token = torch.multinomial(probabilities, 1, generator=generator)
        text.append(int(token))
        logits, caches = model(token[None], attend, caches)
    model.train()
    return bytes(text)
