// The same kernels for the host executor.
#include "cuda/sm80/linear.cu"  // NOLINT
