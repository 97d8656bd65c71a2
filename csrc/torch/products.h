// Matrix products of tensors on torch's threads.
#pragma once

#include <algorithm>

#include "cpu/kernels.h"
#include "torch/matrices.h"
#include "torch/new_tensor.h"
#include "torch/slots.h"
#include "torch/working_memory.h"

namespace seo_kernels {

// Shares of rows begin at a multiple: whole tiles, whole Philox counters.
constexpr int64_t kRowStep = 16;

// How a product (rows, columns) is divided: contiguous ranges of rows that share packed panels, or, for few rows,
// ranges of panels that each slot packs for itself.
struct Division {
  int64_t slots, rows, panels;
  bool by_rows;

  Division(int64_t rows, int64_t columns, int64_t inner, int64_t panels)
      : slots(slots_for(rows * std::max<int64_t>(columns, 1) * std::max<int64_t>(inner, 1))),
        rows(rows),
        panels(panels) {
    constexpr int64_t kFewRows = 32;  // per slot: fewer would not repay a pass over all columns
    by_rows = rows > kFewRows * slots || panels < slots;
  }

  // Packed panels held at a time; -1: all.
  int64_t held() const { return by_rows ? -1 : slots; }

  cpu::MatmulShare share(int64_t slot) const {
    if (by_rows) return {seo_kernels::share(rows, kRowStep, slots, slot), {0, panels}, true, slot};
    return {{0, rows}, seo_kernels::share(panels, 1, slots, slot), false, slot};
  }

  // Calls f(share) for each share with anything in it.
  template <class F>
  void run(F f) const {
    for_each_slot(slots, [&](int64_t slot) {
      const cpu::MatmulShare part = share(slot);
      if (part.rows.size() > 0 && (by_rows || part.panels.size() > 0)) f(part);
    });
  }
};

// Memory for the packed form of a right-hand side, or for `held` of its panels.
inline WorkingMemory packed_memory(DType dtype, cpu::PackedMatrix& matrix, int64_t held = -1) {
  const auto& kernels = cpu::kernels().linear;
  int64_t bytes = kernels.panel_bytes(dtype, matrix.matrix.rows, matrix.matrix.columns);
  if (held >= 0) bytes = bytes / kernels.panel_count(dtype, matrix.matrix.columns) * held;
  WorkingMemory memory(static_cast<size_t>(bytes));
  matrix.packed = memory.data();
  return memory;
}

// A slot's share of packing a right-hand side.
inline void pack_share(DType dtype, const cpu::PackedMatrix& matrix, int64_t slots, int64_t slot) {
  const int64_t panels = cpu::kernels().linear.panel_count(dtype, matrix.matrix.columns);
  cpu::kernels().linear.pack(dtype, matrix, share(panels, 1, slots, slot));
}

// Whether to compute the transposed product instead. The right side is packed, while the left one is read in place
// where it lies row by row along the inner dimension: a weight that is much larger than the input should be the left
// one.
inline bool worth_turning(const cpu::MatmulParams& p) {
  const MatrixView right = p.b.matrix.transposed();
  return right.column_stride == 1 && 2 * p.a.rows < right.rows;
}

// Whether both sides are read in place, row by row.
inline bool few_rows(const cpu::MatmulParams& p) {
  return p.a.rows <= cpu::kFewRows && p.a.column_stride == 1 && p.b.matrix.row_stride == 1;
}

inline void run_product(cpu::MatmulParams p) {
  if (p.out.rows == 0 || p.out.columns == 0) return;
  if (few_rows(p)) {
    const int64_t slots = slots_for(p.a.rows * p.a.columns * p.out.columns);
    for_each_slot(
        slots, [&](int64_t slot) { cpu::kernels().linear.few_rows(p, share(p.out.columns, kRowStep, slots, slot)); });
    return;
  }
  if (worth_turning(p)) {
    const MatrixView left = p.a;
    p.a = p.b.matrix.transposed();
    p.b.matrix = left.transposed();
    p.turned = true;
  }
  const int64_t rows = p.a.rows, columns = p.b.matrix.columns;
  const Division division(rows, columns, p.a.columns, cpu::kernels().linear.panel_count(p.dtype, columns));
  const WorkingMemory memory = packed_memory(p.dtype, p.b, division.held());
  if (division.by_rows) {
    const int64_t packers = slots_for(p.b.matrix.rows * p.b.matrix.columns);
    for_each_slot(packers, [&](int64_t slot) { pack_share(p.dtype, p.b, packers, slot); });
  }
  division.run([&](const cpu::MatmulShare& share) { cpu::kernels().linear.matmul(p, share); });
}

// The sum over the first dimension, in order: the same result whenever the number of slots is the same.
inline Tensor sum_slots(const Tensor& parts) {
  std::vector<int64_t> shape = shape_of(parts);
  shape.erase(shape.begin());
  Tensor sum = make_tensor(parts, shape, parts.scalar_type(), true);
  const auto add = [&](auto zero) {
    using Acc = decltype(zero);
    const Acc* from = static_cast<const Acc*>(parts.data_ptr());
    Acc* to = static_cast<Acc*>(sum.data_ptr());
    const int64_t size = sum.numel();
    for (int64_t slot = 0; slot < parts.size(0); ++slot) {
      for (int64_t n = 0; n < size; ++n) to[n] += from[slot * size + n];
    }
  };
  parts.scalar_type() == ScalarType::Double ? add(0.0) : add(0.0f);
  return sum;
}

inline Tensor to_type(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

inline Tensor absent(const Tensor& like) { return make_tensor(like, {0}, like.scalar_type()); }

}  // namespace seo_kernels
