// The same kernels for the host executor.
#include "cuda/sm80/linear_cross_entropy.cu"  // NOLINT
