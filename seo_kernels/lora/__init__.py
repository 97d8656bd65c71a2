"""LoRA adapters for any model: put in, switched, merged, and exchanged with PEFT as adapter folders."""

from seo_kernels.lora.applying import apply
from seo_kernels.lora.by_path import apply_lora
from seo_kernels.lora.folder import load, save
from seo_kernels.lora.report import AdaptedLayer, Report
from seo_kernels.lora.switching import adapter_names, disabled, merge, set_adapter, unmerge

__all__ = [
    "AdaptedLayer",
    "Report",
    "adapter_names",
    "apply",
    "apply_lora",
    "disabled",
    "load",
    "merge",
    "save",
    "set_adapter",
    "unmerge",
]
