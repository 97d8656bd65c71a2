// The same kernels for the host executor.
#include "cuda/attention_forward.cu"  // NOLINT
