"""Small questions about the gradients of a model."""

from __future__ import annotations

from torch import nn

from seo_kernels.diagnostics.gradient_norms import gradient_norms, named_parameters
from seo_kernels.diagnostics.gradient_statistics import gradient_statistics
from seo_kernels.nn.sizes import check_flag


class AutogradUtils:
    """Static tools around ``.grad`` and ``requires_grad``; each raises TypeError for what is no module, and
    ValueError for one without parameters.
    """

    @staticmethod
    def enable_gradients(model: nn.Module, enabled: bool = True) -> None:
        """Switch ``requires_grad`` of every parameter; gradients that are there stay.

        Raises:
            TypeError: ``enabled`` is not True or False.

        >>> model = nn.Linear(2, 1)
        >>> AutogradUtils.enable_gradients(model, False)
        >>> model.weight.requires_grad
        False
        """
        check_flag("enabled", enabled)
        for parameter in named_parameters(model).values():
            parameter.requires_grad_(enabled)

    @staticmethod
    def get_gradient_norms(model: nn.Module) -> dict[str, float]:
        """{parameter: L2 norm of its gradient}, of those that have one; one fused pass."""
        return gradient_norms(model).by_name()

    @staticmethod
    def compute_gradient_statistics(model: nn.Module) -> dict[str, object]:
        """What the gradients are like; empty where there are none.

        Returns:
            "total_norm", and "parameters" and "modules" by name ("" is the whole model), each with "size",
            "norm", "mean", "std", "min", "max", "zeros" (a share) and "nonfinite" (a count).

        >>> import torch
        >>> model = nn.Linear(2, 1)
        >>> model(torch.tensor([[0.0, 2.0]])).sum().backward()
        >>> AutogradUtils.compute_gradient_statistics(model)["parameters"]["weight"]["zeros"]
        0.5
        """
        statistics = gradient_statistics(model)
        if not statistics.parameters:
            return {}
        return {"total_norm": statistics.modules[""].norm, **statistics.as_dict()}

    @staticmethod
    def check_gradients_exist(model: nn.Module) -> bool:
        """Whether every parameter that wants a gradient has one, and at least one wants it."""
        wanted = [p for p in named_parameters(model).values() if p.requires_grad]
        return bool(wanted) and all(parameter.grad is not None for parameter in wanted)
