"""Advanced examples, by the documented import name: ``python -m autograd_advanced_examples`` runs all. The
work is in ``seo_kernels``."""

from seo_kernels.examples import AdvancedAutogradExamples

__all__ = ["AdvancedAutogradExamples"]

if __name__ == "__main__":
    AdvancedAutogradExamples.run_all_advanced_examples()
