// The same kernels for the host executor.
#include "cuda/sm90/attention_backward.cu"  // NOLINT
