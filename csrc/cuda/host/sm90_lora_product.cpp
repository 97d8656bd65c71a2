// The same kernels for the host executor.
#include "cuda/sm90/lora_product.cu"  // NOLINT
