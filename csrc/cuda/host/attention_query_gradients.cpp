// The same kernels for the host executor.
#include "cuda/attention_query_gradients.cu"  // NOLINT
