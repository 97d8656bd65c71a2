// The same kernels for the host executor.
#include "cuda/sm90/linear_cross_entropy.cu"  // NOLINT
