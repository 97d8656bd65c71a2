"""``python -m seo_kernels.gpu``: everything that takes a GPU to prove, in one command."""
