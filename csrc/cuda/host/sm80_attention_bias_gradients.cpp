// The same kernels for the host executor.
#include "cuda/sm80/attention_bias_gradients.cu"  // NOLINT
