// The same kernels for the host executor.
#include "cuda/attention_key_gradients.cu"  // NOLINT
