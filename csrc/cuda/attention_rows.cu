// What attention's kernels need to know of single rows before they go over tiles, and sums over slots after.
#include "cuda/attention/stage.h"

namespace seo_kernels::cuda {
namespace {

struct NoShared {};

constexpr int kLanes = 32;

// A warp has a row of (B, Hq, Tq): delta = dO . O - grad_lse, and the row's ends.
template <class S>
struct AttentionRows {
  using Acc = AccOf<S>;
  using Shared = NoShared;
  static constexpr int kThreads = 128, kRowsAtOnce = kThreads / kLanes;
  AttentionParams p;
  TensorView out, grad_out;  // backward's, where they are there
  const void* grad_lse;
  void* delta;

  struct Products {
    Acc delta, key[2], value[2];
  };

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    PerThread<Products> products;
    block.for_threads([&](int thread) {
      products[thread] = Products{};
      const int64_t row = block.index() * kRowsAtOnce + thread / kLanes;
      if (row < p.batch * p.query_heads * p.query_length) products[thread] = multiply(row, thread % kLanes);
    });
    block.template combine<kLanes>(products, [](const Products& a, const Products& b) {
      return Products{a.delta + b.delta,
                      {a.key[0] + b.key[0], a.key[1] + b.key[1]},
                      {a.value[0] + b.value[0], a.value[1] + b.value[1]}};
    });
    block.for_threads([&](int thread) {
      const int64_t row = block.index() * kRowsAtOnce + thread / kLanes;
      if (thread % kLanes != 0 || row >= p.batch * p.query_heads * p.query_length) return;
      const Products& sum = products[thread];
      if (delta) {
        static_cast<Acc*>(delta)[row] = grad_lse ? sum.delta - static_cast<const Acc*>(grad_lse)[row] : sum.delta;
      }
      if (p.row_ends) {
        static_cast<RowEnds<Acc>*>(p.row_ends)[row] = {{sum.key[0], sum.key[1]}, {sum.value[0], sum.value[1]}};
      }
    });
  }

 private:
  // Of every 32nd column.
  SK_DEVICE Products multiply(int64_t row, int lane) const {
    const int64_t i = row % p.query_length, head = row / p.query_length % p.query_heads;
    const int64_t batch = row / p.query_length / p.query_heads;
    const auto at = [&](const TensorView& view) {
      return static_cast<const S*>(view.data) + batch * view.stride[0] + head * view.stride[1] + i * view.stride[2];
    };
    const auto entry = [](const RelativeTable& table, int64_t head, int64_t width, int64_t side, int64_t column) {
      const int64_t first = table.per_head ? head * table.rows() : 0;
      return static_cast<const Acc*>(table.data)[(first + side * 2 * table.max_distance) * width + column];
    };
    Products sum{};
    if (p.relative_key) {
      for (int64_t d = lane; d < p.dim; d += kLanes) {
        const Acc q = widen(at(p.query)[d * p.query.stride[3]]);
        for (int side = 0; side < 2; ++side) sum.key[side] += q * entry(p.relative_key, head, p.dim, side, d);
      }
    }
    if (!grad_out) return sum;
    for (int64_t d = lane; d < p.value_dim; d += kLanes) {
      const Acc gradient = widen(at(grad_out)[d * grad_out.stride[3]]);
      sum.delta += gradient * widen(at(out)[d * out.stride[3]]);
      if (!p.relative_value) continue;
      for (int side = 0; side < 2; ++side) {
        sum.value[side] += gradient * entry(p.relative_value, head, p.value_dim, side, d);
      }
    }
    return sum;
  }
};

// A warp has a tile of queries, or a panel of keys.
struct SegmentRanges {
  using Shared = NoShared;
  static constexpr int kThreads = kLanes;
  AttentionParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    const int64_t per_batch = p.plan.tiles + p.plan.panels, batch = block.index() / per_batch;
    const int64_t tile = block.index() % per_batch, panel = tile - p.plan.tiles;
    PerThread<SegmentRange> ranges;
    block.for_threads([&](int thread) {
      ranges[thread] =
          panel < 0 ? of(p.query_segments + batch * p.query_length, p.query_length, tile, p.plan.tile_rows, thread)
                    : of(p.key_segments + batch * p.key_length, p.key_length, panel, kTile, thread);
    });
    block.template combine<kLanes>(ranges, [](const SegmentRange& a, const SegmentRange& b) {
      return SegmentRange{a.low < b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
    });
    block.for_threads([&](int thread) {
      if (thread != 0) return;
      (panel < 0 ? p.query_ranges[batch * p.plan.tiles + tile] : p.key_ranges[batch * p.plan.panels + panel]) =
          ranges[thread];
    });
  }

 private:
  SK_DEVICE static SegmentRange of(const int64_t* segments, int64_t length, int64_t part, int64_t size, int lane) {
    SegmentRange range{INT64_MAX, INT64_MIN};
    for (int64_t n = part * size + lane; n < length && n < (part + 1) * size; n += kLanes) {
      range.low = segments[n] < range.low ? segments[n] : range.low;
      range.high = segments[n] > range.high ? segments[n] : range.high;
    }
    return range;
  }
};

// A thread has an entry.
template <class Acc>
struct SumParts {
  using Shared = NoShared;
  static constexpr int kThreads = 256;
  SumPartsParams p;

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    block.for_threads([&](int thread) {
      const int64_t entry = block.index() * kThreads + thread;
      if (entry >= p.groups * p.size) return;
      const Acc* from = static_cast<const Acc*>(p.from) + entry / p.size * p.parts * p.size + entry % p.size;
      double sum = 0;
      for (int64_t part = 0; part < p.parts; ++part) sum += from[part * p.size];
      static_cast<Acc*>(p.to)[entry] = static_cast<Acc>(sum);
    });
  }
};

}  // namespace

void attention_rows(const AttentionParams& p, const AttentionBackwardParams* backward, Stream stream) {
  if (p.key_segments) {
    launch(SegmentRanges{p}, p.batch * (p.plan.tiles + p.plan.panels), stream, "attention: segments");
  }
  if (!p.row_ends && !backward) return;
  with_dtype(p.dtype, [&](auto stored) {
    using Kernel = AttentionRows<decltype(stored)>;
    const int64_t rows = p.batch * p.query_heads * p.query_length;
    Kernel kernel{p, {}, {}, nullptr, nullptr};
    if (backward) {
      kernel.out = backward->out;
      kernel.grad_out = backward->grad_out;
      kernel.grad_lse = backward->grad_lse;
      kernel.delta = backward->delta;
    }
    launch(kernel, (rows + Kernel::kRowsAtOnce - 1) / Kernel::kRowsAtOnce, stream, "attention: rows");
  });
}

void sum_parts(const SumPartsParams& p, Stream stream) {
  const int64_t blocks = (p.groups * p.size + 255) / 256;
  if (p.dtype == DType::kFloat64) {
    launch(SumParts<double>{p}, blocks, stream, "attention_backward: sums");
  } else {
    launch(SumParts<float>{p}, blocks, stream, "attention_backward: sums");
  }
}

}  // namespace seo_kernels::cuda
