"""Every op that the gradient verification runs. A new one is added to ``ops()``."""

from seo_kernels.diagnostics import activation_cases, attention_cases, dropout_cases, linear_cases, loss_cases
from seo_kernels.diagnostics.checked_op import CheckedOp


def ops() -> dict[str, CheckedOp]:
    """Every op of the library by name."""
    checked = (
        attention_cases.op(),
        *activation_cases.ops(),
        dropout_cases.op(),
        *linear_cases.ops(),
        *loss_cases.ops(),
    )
    return {op.name: op for op in checked}
