// The same kernels for the host executor.
#include "cuda/activation.cu"  // NOLINT
