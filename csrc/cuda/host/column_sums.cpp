// The same kernels for the host executor.
#include "cuda/column_sums.cu"  // NOLINT
