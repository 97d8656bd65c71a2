// The same kernels for the host executor.
#include "cuda/attention_rows.cu"  // NOLINT
