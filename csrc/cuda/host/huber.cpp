// The same kernels for the host executor.
#include "cuda/huber.cu"  // NOLINT
