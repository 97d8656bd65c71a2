// The same kernels for the host executor.
#include "cuda/sm90/matmul.cu"  // NOLINT
