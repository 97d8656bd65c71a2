// The same kernels for the host executor.
#include "cuda/lora_up.cu"  // NOLINT
