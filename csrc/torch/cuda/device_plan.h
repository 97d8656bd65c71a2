// Plans of tiles in a device's memory: made once per pattern, size and device.
#pragma once

#include "cuda/attention.h"
#include "torch/attention_arguments.h"

namespace seo_kernels {

// The plan of the arguments' pattern on the query's device. The first call with a pattern waits for its copy, and so
// must come before any capture of a CUDA graph; plans that graphs use are kept for good.
// tile_rows: of a tile of queries, at most.
cuda::DevicePlan device_plan(const AttentionArguments& arguments, const AttentionProblem& problem, cuda::Stream stream,
                             int64_t tile_rows = cuda::kTile);

}  // namespace seo_kernels
