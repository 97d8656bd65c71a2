// The same kernels for the host executor.
#include "cuda/sm80/attention_mask_gradient.cu"  // NOLINT
