// Ops that tell about plans and the machine; they take no tensors to compute on.
#include <algorithm>
#include <mutex>

#include "cpu/kernels.h"
#include "torch/attention_arguments.h"

namespace seo_kernels {
namespace {

constexpr int64_t kPlanColumns = 6;  // head (-1: all), query begin, query end, key begin, key end, partial

Tensor attention_plan(std::string pattern, OptionalTensor layout, int64_t heads, int64_t query_length,
                      int64_t key_length, int64_t query_offset, int64_t tile_rows) {
  PatternKey key{pattern, heads, query_length, key_length, query_offset};
  if (tile_rows > 0) key.most_rows = key.row_step = tile_rows;
  const auto planned = planned_pattern(key, AttentionArguments::layout_reader(layout));
  const TilePlan& plan = planned->plan;
  const int64_t rows = static_cast<int64_t>(plan.runs.size());
  const std::vector<int64_t> shape{rows, kPlanColumns};
  Tensor table =
      torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()), ScalarType::Long);
  int64_t* to = static_cast<int64_t*>(table.data_ptr());
  for (int64_t head = 0; head < plan.heads; ++head) {
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      const int64_t index = head * plan.tiles + tile;
      for (int64_t n = plan.offsets[index]; n < plan.offsets[index + 1]; ++n) {
        const PanelRun& run = plan.runs[n];
        const int64_t row[kPlanColumns] = {plan.heads == 1 ? -1 : head,
                                           tile * plan.tile_rows,
                                           std::min((tile + 1) * plan.tile_rows, query_length),
                                           run.begin * kPanel,
                                           std::min(run.end * kPanel, key_length),
                                           run.partial ? 1 : 0};
        to = std::copy(row, row + kPlanColumns, to);
      }
    }
  }
  return table;
}

double fma_peak(std::string kind, int64_t milliseconds) {
  DType dtype;
  if (kind == "float32") {
    dtype = DType::kFloat32;
  } else if (kind == "float64") {
    dtype = DType::kFloat64;
  } else if (kind == "bfloat16") {
    dtype = DType::kBFloat16;
  } else {
    throw std::invalid_argument("kind is '" + kind + "', expected float32, float64 or bfloat16");
  }
  std::mutex mutex;
  double total = 0;
  torch::stable::parallel_for(0, torch::stable::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const double rate = cpu::kernels().fma_peak(dtype, milliseconds);
      const std::lock_guard<std::mutex> lock(mutex);
      total += rate;
    }
  });
  return total;
}

std::string cpu_capability() { return cpu::kernels().capability; }

}  // namespace
}  // namespace seo_kernels

STABLE_TORCH_LIBRARY_IMPL(seo_kernels, CompositeExplicitAutograd, m) {
  m.impl("attention_plan", TORCH_BOX(&seo_kernels::attention_plan));
  m.impl("fma_peak", TORCH_BOX(&seo_kernels::fma_peak));
  m.impl("cpu_capability", TORCH_BOX(&seo_kernels::cpu_capability));
}
