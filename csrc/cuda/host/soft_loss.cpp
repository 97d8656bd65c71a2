// The same kernels for the host executor.
#include "cuda/soft_loss.cu"  // NOLINT
