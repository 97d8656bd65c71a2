// The same kernels for the host executor.
#include "cuda/class_loss.cu"  // NOLINT
