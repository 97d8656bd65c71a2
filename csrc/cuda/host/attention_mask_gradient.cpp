// The same kernels for the host executor.
#include "cuda/attention_mask_gradient.cu"  // NOLINT
