// A product of a few rows with a weight: every entry of the weight is read once, from where it lies.
#include "cpu/isa/entry.h"
#include "cpu/isa/linear/tile_writer.h"

namespace seo_kernels::cpu {
namespace {

constexpr int64_t kColumns = 64;  // of the result, that are finished together
constexpr int kMostRows = 8;      // that meet an entry of the weight while it is in a register
static_assert(kMostRows == kFewRows);

// Bytes from an entry of the weight to what is asked for meanwhile: its rows follow each other as a rule, and across
// pages the hardware does not foresee that.
constexpr int64_t kAhead = 2048;

// The rows in the accumulation type, zeros behind them up to whole vectors.
template <class Acc>
class WideRows {
 public:
  static constexpr int64_t W = kLanes<Acc>;

  explicit WideRows(const MatrixView& a) : ld_(round_up(a.columns, W)), values_(a.rows * ld_) {
    with_stored<Acc>(a.dtype, [&](auto stored) {
      for (int64_t row = 0; row < a.rows; ++row) {
        const auto* from = static_cast<const decltype(stored)*>(a.data) + row * a.row_stride;
        Acc* to = values_.get() + row * ld_;
        const int64_t whole = a.columns / W * W;
        for (int64_t n = 0; n < whole; n += W) store(to + n, load_wide<Acc>(from + n));
        if (whole < ld_) store(to + whole, load_part<Acc>(from + whole, a.columns - whole));
      }
    });
  }

  int64_t ld() const { return ld_; }
  const Acc* row(int64_t n) const { return values_.get() + n * ld_; }

 private:
  int64_t ld_;
  Scratch<Acc> values_;
};

// How many rows of the weight are read side by side: each is a stream of its own to the memory, as many sums as there
// are registers for.
template <int R>
constexpr int kStreams = std::max(1, std::min(4, (kVectorBytes == 64 ? 16 : 8) / R));

// The products of R rows, ld apart, with some rows of the weight, not yet summed over the lanes.
template <int R, class Acc, class S>
inline __attribute__((always_inline)) void multiply(int64_t inner, const Acc* rows, int64_t ld,
                                                    const S* const (&weight)[kStreams<R>],
                                                    Vec<Acc> (&sums)[kStreams<R>][R]) {
  constexpr int64_t W = kLanes<Acc>;
  const auto step = [&](int64_t k, auto load_entries) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int stream = 0; stream < kStreams<R>; ++stream) {
      __builtin_prefetch(reinterpret_cast<const char*>(weight[stream] + k) + kAhead);
      const Vec<Acc> entries = load_entries(weight[stream] + k);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[stream][r] += load(rows + r * ld + k) * entries;
    }
  };
  int64_t k = 0;
  for (; k + W <= inner; k += W) step(k, [](const S* from) { return load_wide<Acc>(from); });
  if (k < inner) step(k, [&](const S* from) { return load_part<Acc>(from, inner - k); });
}

// values (R, kColumns): the products of R rows with these rows of the weight, at most kColumns.
template <int R, class Acc, class S>
void multiply_columns(const WideRows<Acc>& rows, int64_t first, const MatrixView& weight, Range columns, Acc* values) {
  constexpr int64_t W = kLanes<Acc>, kSpan = kColumns / kStreams<R>;
  for (int64_t begin = 0; begin < std::min(kSpan, columns.size()); begin += W) {
    Vec<Acc> sums[kStreams<R>][R][W];
    for (int64_t n = 0; n < W; ++n) {
      const S* entries[kStreams<R>];
      for (int stream = 0; stream < kStreams<R>; ++stream) {
        const int64_t column = std::min(columns.begin + stream * kSpan + begin + n, columns.end - 1);
        entries[stream] = static_cast<const S*>(weight.data) + column * weight.row_stride;
      }
      Vec<Acc> of_columns[kStreams<R>][R] = {};
      multiply<R>(weight.columns, rows.row(first), rows.ld(), entries, of_columns);
#pragma GCC unroll 4
      for (int stream = 0; stream < kStreams<R>; ++stream) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sums[stream][r][n] = of_columns[stream][r];
      }
    }
    for (int stream = 0; stream < kStreams<R>; ++stream) {
      for (int r = 0; r < R; ++r) {
        transpose_stage<Acc, 1>(sums[stream][r]);
        Vec<Acc> total = sums[stream][r][0];
        for (int n = 1; n < W; ++n) total += sums[stream][r][n];
        store(values + r * kColumns + stream * kSpan + begin, total);
      }
    }
  }
}

template <class E, class S>
void run_few_rows(const MatmulParams& p, Range columns) {
  using Acc = typename E::Acc;
  const WideRows<Acc> rows(p.a);
  const MatrixView weight = p.b.matrix.transposed();
  const TileWriter<E> write(p);
  alignas(64) Acc values[kMostRows * kColumns];
  for (int64_t column = columns.begin; column < columns.end; column += kColumns) {
    const Range part{column, std::min(column + kColumns, columns.end)};
    int64_t row = 0;
    const auto block = [&]<int R>() {
      for (; row + R <= p.a.rows; row += R) {
        multiply_columns<R, Acc, S>(rows, row, weight, part, values);
        write(row, R, part.begin, part.size(), values, kColumns);
      }
    };
    block.template operator()<kMostRows>();
    block.template operator()<4>();
    block.template operator()<2>();
    block.template operator()<1>();
  }
}

}  // namespace

void linear_few_rows(const MatmulParams& p, Range columns) {
  if (p.dtype == DType::kFloat64) return run_few_rows<Float64Engine, double>(p, columns);
  with_stored<float>(p.dtype, [&](auto stored) { run_few_rows<Float32Engine, decltype(stored)>(p, columns); });
}

}  // namespace seo_kernels::cpu
