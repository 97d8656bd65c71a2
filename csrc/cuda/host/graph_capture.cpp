// The same for the host executor.
#include "cuda/graph_capture.cu"  // NOLINT
