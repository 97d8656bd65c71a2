// The same kernel for the host executor.
#include "cuda/dropout.cu"  // NOLINT
