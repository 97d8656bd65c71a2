"""The command line: ``python -m seo_kernels info | check | bench | demo``."""
