// Matrix products of tensors on torch's threads.
#pragma once

#include "torch/matrices.h"

namespace seo_kernels {

// How a product (rows, columns) is divided: contiguous ranges of rows that share packed panels, or ranges of panels that
// their threads pack for themselves.
struct Division {
  int64_t slots;
  bool by_rows;
};

inline Division divide_product(int64_t rows, int64_t columns, int64_t inner, int64_t panels) {
  constexpr int64_t kSerialWork = 1 << 17;  // multiply-adds below which a second thread costs more than it brings
  constexpr int64_t kFewRows = 96;          // per thread: fewer would not repay a pass over all columns
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t slots = rows * columns * std::max<int64_t>(inner, 1) < kSerialWork ? 1 : threads;
  const bool by_rows = rows > kFewRows * slots || panels < slots;
  return {slots, by_rows};
}

template <class F>
void for_each_slot(int64_t slots, F f) {
  if (slots == 1) return f(0);
  torch::stable::parallel_for(0, slots, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slot = begin; slot < end; ++slot) f(slot);
  });
}

// Memory for the packed form of a right-hand side, owned by the tensor that is returned.
inline Tensor packed_memory(const Tensor& like, cpu::DType dtype, cpu::PackedMatrix& matrix) {
  const int64_t bytes = cpu::kernels().linear.panel_bytes(dtype, matrix.matrix.rows, matrix.matrix.columns);
  Tensor memory = make_tensor(like, {bytes}, ScalarType::Byte);
  matrix.packed = memory.data_ptr();
  return memory;
}

// Each slot packs its share of a right-hand side.
inline void pack_share(cpu::DType dtype, const cpu::PackedMatrix& matrix, int64_t slots, int64_t slot) {
  const int64_t panels = cpu::kernels().linear.panel_count(dtype, matrix.matrix.columns);
  cpu::kernels().linear.pack(dtype, matrix, cpu::share(panels, 1, slots, slot));
}

constexpr int64_t kRowStep = 12;  // shares of rows begin at a multiple: whole row blocks, whole Philox counters

// Runs a product; like: any tensor of the device.
inline void run_product(cpu::MatmulParams& p, const Tensor& like) {
  const int64_t rows = p.out.rows, columns = p.out.columns;
  if (rows == 0 || columns == 0) return;
  const auto& kernels = cpu::kernels().linear;
  const int64_t panels = kernels.panel_count(p.dtype, columns);
  const Division division = divide_product(rows, columns, p.a.columns, panels);
  const Tensor memory = packed_memory(like, p.dtype, p.b);
  if (division.by_rows) {
    for_each_slot(division.slots, [&](int64_t slot) { pack_share(p.dtype, p.b, division.slots, slot); });
  }
  for_each_slot(division.slots, [&](int64_t slot) {
    const cpu::MatmulShare share =
        division.by_rows
            ? cpu::MatmulShare{cpu::share(rows, kRowStep, division.slots, slot), {0, panels}, true}
            : cpu::MatmulShare{{0, rows}, cpu::share(panels, 1, division.slots, slot), false};
    if (share.rows.size() > 0 && share.panels.size() > 0) kernels.matmul(p, share);
  });
}

}  // namespace seo_kernels
