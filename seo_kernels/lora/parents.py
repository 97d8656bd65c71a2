"""Parents that read the weight of a layer inside them instead of calling it, so that an adapter were lost."""

from torch import nn

from seo_kernels.nn.attention import MultiheadAttention
from seo_kernels.nn.lora import LoRALinear

# their fused kernels take out_proj's weight (transformers' model types)
STATE_SPACE_MODELS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")


def check_not_read_by_model(model: nn.Module, path: str) -> None:
    """Raise for a layer that a state-space model hands to its kernels as a weight.

    Raises:
        ValueError: it is one.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in STATE_SPACE_MODELS and path.rpartition(".")[2] == "out_proj":
        raise ValueError(
            f"{path} is read as a weight by {kind} models, not called, so its adapter would have no effect; "
            "expected it in exclude_modules"
        )


def replacement(parent: nn.Module, parent_path: str, child_name: str) -> MultiheadAttention | None:
    """The layer to put in place of ``parent`` so that it calls its child, or None where it does already.

    Raises:
        ValueError: it reads the child's weight and cannot be replaced.
    """
    if not isinstance(parent, nn.MultiheadAttention) or child_name != "out_proj":
        return None
    if isinstance(parent, MultiheadAttention):
        return None
    try:
        new = MultiheadAttention.from_torch(parent)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{parent_path}.out_proj is read as a weight by its parent, not called, so its adapter would "
            f"have no effect, and the parent cannot be replaced: {error}"
        ) from None
    if not parent_path:
        raise ValueError(
            "the model itself is a torch.nn.MultiheadAttention, which reads the weight of its out_proj and "
            "does not call it; expected seo_kernels.nn.MultiheadAttention.from_torch(model) instead"
        )
    return new


def keep_from_nesting(model: nn.Module) -> None:
    """Stop torch's encoders from making nested tensors of padded input to their adapted layers.

    In eval they do where their first layer's weights want no gradient, although adapters may; its attention
    then refuses.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(m, LoRALinear) for m in module.modules()
        ):
            module.use_nested_tensor = False
