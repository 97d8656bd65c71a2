"""What looks at gradients: the verification of every op, by dtype and device; and of any module of the user's."""

from seo_kernels.diagnostics.module_factory import FactoryError, ModuleUnderTest, load_factory

__all__ = ["FactoryError", "ModuleUnderTest", "load_factory"]
