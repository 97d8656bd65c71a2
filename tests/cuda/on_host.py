"""A pytest plugin: the GPU's kernels, run by the host, take the place of the CPU's where there are any."""

import torch

import seo_kernels
from seo_kernels import _library

assert seo_kernels.info()["native"]
torch.ops.load_library(_library._FOLDER / "libseo_kernels_host.so")
