// The same kernels for the host executor.
#include "cuda/sm80/matmul.cu"  // NOLINT
