"""Losses of embeddings: they say which lie close together, not what they are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.nn.sizes import check_not_negative, check_positive
from seo_kernels.ops.checks import FLOATING, kind
from seo_kernels.ops.losses import cross_entropy


def supervised_contrastive_loss(
    embeddings: Tensor, labels: Tensor, *, temperature: float = 0.07, margin: float = 1.0
) -> Tensor:
    """Pull embeddings of equal labels together and push others apart, whatever their lengths.

    With s the cosine similarities, P_i the others that share the label of i, and N the pairs whose labels
    differ, this is the mean over all i that have a P_i of

        -1 / |P_i| sum_{p in P_i} log( exp(s_ip / temperature) / sum_{a != i} exp(s_ia / temperature) )

    plus the mean over N of max(0, s - (1 - margin))^2 / 2. A term that averages over nothing is 0.

    Args:
        embeddings: (N, D), floating point.
        labels: (N,), integers or bool.
        temperature: above 0; smaller ones weigh close embeddings more.
        margin: at least 0; negatives are pushed that are more similar than 1 - margin; 0 leaves that out.

    Returns:
        A scalar in float32 at least, also under autocast.

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes that do not fit, or a number out of range.

    Source: Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2; Hadsell et al. 2006,
    "Dimensionality Reduction by Learning an Invariant Mapping", eq. 4, with the distance 1 - s.

    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> apart = torch.eye(2).repeat_interleave(2, 0)
    >>> close = torch.eye(2).repeat(2, 1)
    >>> bool(supervised_contrastive_loss(apart, labels) < supervised_contrastive_loss(close, labels))
    True
    """
    temperature, margin = check_positive("temperature", temperature), check_not_negative("margin", margin)
    _check_rows("embeddings", embeddings)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels is {kind(labels)}, expected a tensor of integers (N={len(embeddings)},)")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels has dtype {labels.dtype}, expected integers (N={len(embeddings)},)")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels has shape {tuple(labels.shape)}, expected (N={len(embeddings)},)")
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = F.normalize(_wide(embeddings), dim=1)
        similarity = unit @ unit.T
        equal = labels[:, None] == labels
        itself = torch.eye(len(labels), dtype=torch.bool, device=equal.device)
        positive = (equal & ~itself).to(similarity.dtype)
        count = positive.sum(1, keepdim=True)
        # of no weight among the others, and finite: its target of 0 is multiplied with it
        hidden = torch.finfo(similarity.dtype).min / 4
        scores = (similarity / temperature).masked_fill(itself, hidden)
        pulled = cross_entropy(scores, positive / count.clamp(min=1.0), reduction="sum")
        excess = (similarity - (1.0 - margin)).clamp(min=0.0).masked_fill(equal, 0.0)
        pushed = excess.square().sum() / 2
        return pulled / (count > 0).sum().clamp(min=1) + pushed / (~equal).sum().clamp(min=1)


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 1.0) -> Tensor:
    """mean(max(0, |anchor - positive| - |anchor - negative| + margin)), with Euclidean distances.

    Embeddings that coincide get no gradient from their distance, instead of NaN.

    Args:
        anchor, positive, negative: (N, D) each, floating point.
        margin: at least 0; by how much the negative shall be farther away than the positive.

    Returns:
        A scalar in float32 at least, also under autocast.

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes that do not fit, or a number out of range.

    Source: Schroff et al. 2015, "FaceNet", eq. 3, with distances that are not squared.

    >>> triplet_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.5, 0.0]]))
    tensor(0.5000)
    """
    margin = check_not_negative("margin", margin)
    _check_rows("anchor", anchor)
    for name, other in (("positive", positive), ("negative", negative)):
        _check_rows(name, other)
        if other.shape != anchor.shape:
            raise ValueError(
                f"{name} has shape {tuple(other.shape)}, expected the anchor's, {tuple(anchor.shape)}"
            )
    anchor, positive, negative = _wide(anchor), _wide(positive), _wide(negative)
    return (_distance(anchor, positive) - _distance(anchor, negative) + margin).clamp(min=0.0).mean()


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Of rows, (N,); differentiable to any order where two rows coincide."""
    squared = (one - other).square().sum(1)
    same = squared == 0.0
    return squared.masked_fill(same, 1.0).sqrt().masked_fill(same, 0.0)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least: similarities are divided by small numbers."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_rows(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {kind(tensor)}, expected a tensor (N, D)")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected floating point (N, D)")
    if tensor.dim() != 2 or tensor.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected (N, D) with at least one row")
