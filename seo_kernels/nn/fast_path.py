"""Keeps torch's parents from reading a layer's weights instead of calling its forward."""

from torch import Tensor, nn


class ForwardGuard(nn.Module):
    """A submodule without parameters that is never called: its forward pre-hook is its purpose.

    In eval without gradients, ``torch.nn.TransformerEncoderLayer`` computes from the ``.weight`` of its parts
    and calls none of their forwards, whatever class they have, unless a module below it has a hook. The hook
    sits here and not on the layer itself, because TorchScript wants all arguments of a module with hooks
    given, and by position.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        return input


def no_op(module: nn.Module, args: tuple[Tensor]) -> None:
    return None
