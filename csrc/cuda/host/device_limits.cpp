// The same for the host executor.
#include "cuda/device_limits.cu"  // NOLINT
