"""flash-attn and xformers in the place of ``sk.attention``: where they are wanted, installed, and fit."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.transforms import transformed

DEVICES = ("cuda",)
DTYPES = (torch.float16, torch.bfloat16)
Attend = Callable[[Any, Tensor, Tensor, Tensor, bool, float], Tensor]
_log = logging.getLogger(__name__)


def chosen_package(
    packages: Sequence[str], query: Tensor, key: Tensor, attention_type: str, masked: bool
) -> str | None:
    """The first of the packages that is installed and can compute this; None: ``sk.attention`` serves.

    What serves is logged, once for each outcome: a warning where none of the packages does, and why.

    Args:
        packages: "flash_attn" or "xformers".
        query, key: (B, H, T, D).
        attention_type: as of ``TypedAttention``.
        masked: whether there is a mask beside causality.
    """
    refusals = []
    for package in packages:
        refusal = _refusal(package, query, key, attention_type, masked)
        if refusal is None:
            _say_once(logging.INFO, f"attention is computed by {package}")
            return package
        refusals.append(f"{package}: {refusal}")
    if refusals:
        _say_once(logging.WARNING, f"attention is computed by seo_kernels ({'; '.join(refusals)})")
    return None


def attention_by(
    package: str, query: Tensor, key: Tensor, value: Tensor, causal: bool, dropout_p: float
) -> Tensor:
    """softmax(query key^T / sqrt(D)) value by the package: (B, H, T, D) each.

    With ``causal`` the last query stands at the last key, as in ``sk.attention``.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # theirs is (B, T, H, D)
    return _PACKAGES[package](_installed(package), query, key, value, causal, dropout_p).transpose(1, 2)


def _refusal(package: str, query: Tensor, key: Tensor, attention_type: str, masked: bool) -> str | None:
    """Why the package can't compute this, in a few words; None: it can."""
    if isinstance(_installed(package), ImportError):
        return "not installed"
    if attention_type != "standard":
        return f"attention of type {attention_type} is none of its"
    if masked:
        return "it takes no mask"
    if query.device.type not in DEVICES:
        return f"runs on {' and '.join(DEVICES)}, not on {query.device.type}"
    if query.dtype not in DTYPES:
        return f"takes float16 and bfloat16, not {str(query.dtype).removeprefix('torch.')}"
    if query.shape[2] > key.shape[2]:
        return "more queries than keys"
    if transformed():
        return "knows no torch.func transforms and no forward mode"
    return None


@functools.cache
def _installed(package: str) -> Any:
    """The module, or the ImportError; tried once."""
    try:
        return importlib.import_module(_MODULES[package])
    except ImportError as error:
        return error


@functools.cache
def _say_once(level: int, message: str) -> None:
    _log.log(level, message)


def _flash_attn(
    module: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, dropout_p: float
) -> Tensor:
    out: Tensor = module.flash_attn_func(query, key, value, dropout_p=dropout_p, causal=causal)
    return out


def _xformers(
    module: Any, query: Tensor, key: Tensor, value: Tensor, causal: bool, dropout_p: float
) -> Tensor:
    bias = module.fmha.attn_bias.LowerTriangularFromBottomRightMask() if causal else None
    out: Tensor = module.memory_efficient_attention(query, key, value, attn_bias=bias, p=dropout_p)
    return out


_MODULES = {"flash_attn": "flash_attn", "xformers": "xformers.ops"}
_PACKAGES: dict[str, Attend] = {"flash_attn": _flash_attn, "xformers": _xformers}
