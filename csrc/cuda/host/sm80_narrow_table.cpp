// The same kernels for the host executor.
#include "cuda/sm80/narrow_table.cu"  // NOLINT
