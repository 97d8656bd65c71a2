"""What the documented models are fed: token ids, embeddings, lengths and masks, checked and translated.

A mask holds 1 where there is something to attend to and 0 where there is not, whatever its dtype: (B, S) for
padding, (B, S, S) for pairs of query and key, told apart by rank alone. Inside the models a mask is bool
(True: attend), and positions that are no padding are called present.

``check_ids``, ``check_embeddings`` and what has to do with masks compiles under TorchScript.
"""

import os

import torch
from torch import Tensor

from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.ops.transforms import transformed


def readable(tensor: Tensor) -> bool:
    """Whether a check may look at what the tensor holds.

    Not where that would break ``torch.compile``, ``torch.export`` or ``torch.func``, and not on a GPU, which
    would be waited for, unless SEO_KERNELS_CHECK=1.
    """
    if torch.jit.is_scripting():
        return tensor.device.type == "cpu"
    else:
        if torch.compiler.is_compiling() or tensor.is_meta or transformed():
            return False
        return tensor.device.type == "cpu" or os.environ.get("SEO_KERNELS_CHECK") == "1"


def check_ids(ids: Tensor, vocab_size: int, shape: str = "(batch, length)", argument: str = "x") -> None:
    """Raise where these are no ids of tokens, or where there are none.

    Args:
        ids: int64 or int32, of as many dimensions as ``shape`` names.
        argument: what the caller calls the ids, for the message.

    Raises:
        TypeError: no tensor, or not of integers.
        ValueError: a wrong shape, no token at all, or an id outside [0, vocab_size).
    """
    if not torch.jit.is_scripting():
        check_tensor(argument, ids, "a tensor of token ids " + shape)
    if ids.dtype != torch.int64 and ids.dtype != torch.int32:
        raise TypeError(f"{argument} has dtype {ids.dtype}, expected token ids, int64 or int32, {shape}")
    if ids.dim() != shape.count(",") + 1:
        raise ValueError(f"{argument} has shape {shape_text(ids)}, expected {shape}")
    if ids.numel() == 0:
        raise ValueError(f"{argument} has shape {shape_text(ids)}, expected {shape} with at least one token")
    if readable(ids):
        least, largest = ids.min().item(), ids.max().item()
        if least < 0 or largest >= vocab_size:
            raise ValueError(
                f"{argument} holds token ids from {least} to {largest}, expected 0 to {vocab_size - 1} "
                f"(vocab_size={vocab_size})"
            )


def check_embeddings(x: Tensor, width: int, name: str, argument: str = "x") -> None:
    """Raise unless x is (batch, length, width), floating point, with at least one position.

    Args:
        name: what the width is called, for the message.
        argument: what the caller calls x, for the message.

    Raises:
        TypeError: no tensor, or not of floating point.
        ValueError: a wrong shape.
    """
    if not torch.jit.is_scripting():
        check_tensor(argument, x, "a tensor (batch, length, " + name + ")")
    if not x.is_floating_point():
        raise TypeError(
            f"{argument} has dtype {x.dtype}, expected floating point (batch, length, {name}={width})"
        )
    if x.dim() != 3 or x.size(-1) != width or x.size(1) == 0:
        raise ValueError(f"{argument} has shape {shape_text(x)}, expected (batch, length, {name}={width})")


@torch.jit.unused
def check_tensor(name: str, value: Tensor, expected: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, expected {expected}")


def bool_mask(mask: Tensor, batch: int, query_length: int, key_length: int, argument: str = "mask") -> Tensor:
    """The mask as bool (True: attend), of the shape that it has.

    Args:
        mask: (batch, key_length) or (batch, query_length, key_length) of any dtype, 1 attends, 0 hides. A
            bool one is returned as it is.
        argument: what the caller calls it, for the message.

    Raises:
        TypeError: no tensor.
        ValueError: another shape, or a value other than 0 and 1.
    """
    if not torch.jit.is_scripting():
        check_tensor(argument, mask, "a tensor of 1 (attend) and 0")
    shape = list(mask.shape)
    if shape != [batch, key_length] and shape != [batch, query_length, key_length]:
        raise ValueError(
            f"{argument} has shape {shape_text(mask)}, expected (batch={batch}, length={key_length}) "
            f"or (batch={batch}, {query_length}, {key_length})"
        )
    return _as_bool(mask, argument)


def padding_mask(mask: Tensor, shape: list[int]) -> Tensor:
    """A mask that can only be of padding, as bool (True: present).

    Raises:
        TypeError: no tensor.
        ValueError: another shape, or a value other than 0 and 1.
    """
    if not torch.jit.is_scripting():
        check_tensor("mask", mask, "a tensor of 1 (present) and 0")
    if list(mask.shape) != shape:
        raise ValueError(f"mask has shape {shape_text(mask)}, expected {shape}, 1 where there is something")
    return _as_bool(mask, "mask")


def _as_bool(mask: Tensor, argument: str) -> Tensor:
    if mask.dtype == torch.bool:
        return mask
    if readable(mask):
        odd = (mask != 0).logical_and(mask != 1)
        if bool(odd.any()):
            raise ValueError(
                f"{argument} holds {mask[odd][0].item()}, expected 1 (attend) and 0 (hide) only: "
                "it is not added to the scores"
            )
    return mask != 0


def spread_over_heads(mask: Tensor) -> Tensor:
    """A bool mask (B, Tk) or (B, Tq, Tk) as ``sk.attention`` takes it: (B, 1, 1 or Tq, Tk)."""
    return mask[:, None, None] if mask.dim() == 2 else mask[:, None]


def present_positions(mask: Tensor) -> Tensor:
    """Which positions are no padding, bool (B, S); by a mask of pairs (B, S, S): what any query sees."""
    return mask if mask.dim() == 2 else mask.any(1)


def present_by_lengths(lengths: Tensor, batch: int, length: int, device: torch.device) -> Tensor:
    """Which positions lie before the end, bool (B, S).

    Args:
        lengths: int (batch,), from 0 to length, in any order and on any device.

    Raises:
        TypeError: no tensor of integers.
        ValueError: another shape, or a length that is negative or beyond the batch.
    """
    check_tensor("lengths", lengths, f"an int tensor (batch={batch},)")
    if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
        raise TypeError(f"lengths has dtype {lengths.dtype}, expected int64")
    if list(lengths.shape) != [batch]:
        raise ValueError(f"lengths has shape {shape_text(lengths)}, expected (batch={batch},)")
    if readable(lengths):
        least, largest = (int(lengths.min()), int(lengths.max())) if batch else (0, 0)
        if least < 0 or largest > length:
            raise ValueError(
                f"lengths holds {least if least < 0 else largest}, expected 0 to {length}, the length of x"
            )
    return torch.arange(length, device=device) < lengths.to(device)[:, None]
