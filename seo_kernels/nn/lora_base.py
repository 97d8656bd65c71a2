"""Which layers LoRA can be put around, and what has to be known of them."""

from torch import Tensor, nn

from seo_kernels.nn.fast_path import no_op
from seo_kernels.ops.checks import kind


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is transformers' ``Conv1D``: a linear layer whose weight is (in, out). Imports nothing."""
    return _conv1d_class(module) is not None


def is_linear(module: nn.Module) -> bool:
    """Whether this is an ``nn.Linear``, of any subclass, or transformers' ``Conv1D``."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def base_parameters(base: nn.Module) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias of a layer that computes input W^T + b, or an activation of it as ``sk.nn.Linear`` may.

    Raises:
        TypeError: another kind of layer, or one whose own forward would be lost.
        ValueError: hooks, which would be lost.
    """
    if not isinstance(base, nn.Module) or not is_linear(base):
        raise TypeError(f"base is {kind(base)}, expected a torch.nn.Linear or transformers' Conv1D")
    if "forward" in base.__dict__ or not _has_plain_forward(base):
        raise TypeError(
            f"base is a {type(base).__module__}.{type(base).__name__} with a forward of its own, which would "
            "be lost; expected a layer that computes as torch.nn.Linear or transformers' Conv1D does"
        )
    hooks = (base._forward_pre_hooks, base._forward_hooks, base._backward_pre_hooks, base._backward_hooks)
    if any(hook is not no_op for registered in hooks for hook in registered.values()):
        raise ValueError(
            "base has forward or backward hooks, expected none: they would not be called any more"
        )
    weight, bias = base.weight, base.bias
    if not isinstance(weight, nn.Parameter) or not isinstance(bias, (nn.Parameter, type(None))):
        raise ValueError("base computes its weight (a parametrization?), expected a plain parameter")
    if not weight.is_floating_point():
        raise TypeError(f"base.weight is {weight.dtype}, expected a floating-point dtype")
    return weight, bias


def features(base: nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a layer that ``is_linear``."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    rows, columns = weight.shape
    return (rows, columns) if is_conv1d(base) else (columns, rows)


def _conv1d_class(module: nn.Module) -> type | None:
    for cls in type(module).__mro__:
        if cls.__name__ == "Conv1D" and cls.__module__.split(".")[0] == "transformers":
            return cls
    return None


def _has_plain_forward(base: nn.Module) -> bool:
    conv1d = _conv1d_class(base)
    if conv1d is not None:
        return type(base).forward is vars(conv1d)["forward"]
    defining = next(cls for cls in type(base).__mro__ if "forward" in vars(cls))
    return defining is nn.Linear or defining.__module__.startswith("seo_kernels.nn.")
