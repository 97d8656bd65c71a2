"""Every op once more in plain torch, written independently of the kernels: oracle, fallback, double
backward."""

from seo_kernels.reference.attention import attention

__all__ = ["attention"]
