// The same kernels for the host executor.
#include "cuda/sm80/attention_key_gradients.cu"  // NOLINT
