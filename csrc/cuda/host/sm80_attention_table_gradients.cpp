// The same kernels for the host executor.
#include "cuda/sm80/attention_table_gradients.cu"  // NOLINT
