"""``sk.lora.apply``: adapters for the linear layers of any model."""

from collections.abc import Mapping, Sequence

from torch import nn

from seo_kernels.lora.install import Settings, install
from seo_kernels.lora.matching import check_names, find_targets, pattern_value
from seo_kernels.lora.report import Report


def apply(
    model: nn.Module,
    *,
    rank: int,
    alpha: float,
    target_modules: str | Sequence[str],
    dropout: float = 0.0,
    exclude_modules: str | Sequence[str] | None = None,
    use_rslora: bool = False,
    use_dora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    alpha_pattern: Mapping[str, float] | None = None,
    init: str = "kaiming",
    adapter: str = "default",
) -> Report:
    """Put ``sk.nn.LoRALinear`` in place of linear layers of the model, which is changed, and freeze the rest.

    Args:
        model: any module with ``nn.Linear`` or transformers' ``Conv1D`` layers inside.
        rank, alpha, dropout, use_rslora, use_dora, init: as of ``sk.nn.LoRALinear``.
        target_modules: as in PEFT. A list: layers whose path equals an entry or ends in "." and an entry. A
            string: a regular expression for the whole path. "all-linear": all of them but the output head
            of a transformers model.
        exclude_modules: matched likewise, taken out.
        rank_pattern, alpha_pattern: other ranks and alphas by path, as in PEFT: the first key, a regular
            expression, that is the path or its end after a dot.
        adapter: the adapter's name. On a model that has adapters another name adds one; it is inactive until
            ``sk.lora.set_adapter``.

    A torch.nn.MultiheadAttention reads the weight of its out_proj and does not call it: where that is a
    target, ``sk.nn.MultiheadAttention`` takes the parent's place. A torch.nn.TransformerEncoder with adapters
    makes no nested tensors any more. A module that stands at several paths is
    replaced at all of them. Warns where another module shares a target's weight.

    Returns:
        What was done; ``print`` it.

    Raises:
        ValueError: nothing matched (some candidates are named), a number out of range, a target that is no
            plain linear layer or whose parent would not call it. The model is as it was.
        TypeError: an argument or a target of another kind. The model is as it was.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> print(apply(model, rank=2, alpha=4, target_modules=["0"]))
    adapter 'default' on 1 layers; 48 of 260 parameters (18.46%) are trained
      0: Linear 8 -> 16, rank 2
    """
    paths = find_targets(model, target_modules, exclude_modules)
    ranks, alphas = dict(rank_pattern or {}), dict(alpha_pattern or {})
    for name, patterns in (("rank_pattern", ranks), ("alpha_pattern", alphas)):
        for pattern in patterns:
            check_names(name, pattern)
    plan = {
        path: Settings(
            rank=pattern_value(ranks, path, rank),
            alpha=pattern_value(alphas, path, alpha),
            dropout=dropout,
            use_rslora=use_rslora,
            use_dora=use_dora,
            init=init,
        )
        for path in paths
    }
    report, _ = install(model, plan, adapter)
    return report
