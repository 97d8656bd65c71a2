// The same kernels for the host executor.
#include "cuda/linear_cross_entropy.cu"  // NOLINT
