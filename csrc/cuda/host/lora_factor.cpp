// The same kernels for the host executor.
#include "cuda/lora_factor.cu"  // NOLINT
