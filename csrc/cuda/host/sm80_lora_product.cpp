// The same kernels for the host executor.
#include "cuda/sm80/lora_product.cu"  // NOLINT
