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

// The products of R rows, ld apart, with one row of the weight, not yet summed over the lanes.
template <int R, class Acc, class S>
inline __attribute__((always_inline)) void multiply(int64_t inner, const Acc* rows, int64_t ld, const S* weight,
                                                    Vec<Acc> (&sums)[R]) {
  constexpr int64_t W = kLanes<Acc>;
  constexpr int kChains = R < 4 ? 4 : 1;  // sums that do not wait for each other
  Vec<Acc> part[kChains][R] = {};
  const auto step = [&](int chain, int64_t k, Vec<Acc> entries) __attribute__((always_inline)) {
    __builtin_prefetch(reinterpret_cast<const char*>(weight + k) + kAhead);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) part[chain][r] += load(rows + r * ld + k) * entries;
  };
  int64_t k = 0;
  for (; k + kChains * W <= inner; k += kChains * W) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) step(chain, k + chain * W, load_wide<Acc>(weight + k + chain * W));
  }
  for (; k + W <= inner; k += W) step(0, k, load_wide<Acc>(weight + k));
  if (k < inner) step(0, k, load_part<Acc>(weight + k, inner - k));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    sums[r] = part[0][r];
#pragma GCC unroll 4
    for (int chain = 1; chain < kChains; ++chain) sums[r] += part[chain][r];
  }
}

// values (R, kColumns): the products of R rows with `columns` rows of the weight.
template <int R, class Acc, class S>
void multiply_columns(const WideRows<Acc>& rows, int64_t first, const MatrixView& weight, Range columns, Acc* values) {
  constexpr int64_t W = kLanes<Acc>;
  for (int64_t begin = 0; begin < columns.size(); begin += W) {
    Vec<Acc> sums[R][W] = {};
    for (int64_t n = 0; n < std::min(W, columns.size() - begin); ++n) {
      const S* entries = static_cast<const S*>(weight.data) + (columns.begin + begin + n) * weight.row_stride;
      Vec<Acc> of_column[R];
      multiply<R>(weight.columns, rows.row(first), rows.ld(), entries, of_column);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r][n] = of_column[r];
    }
    for (int r = 0; r < R; ++r) {
      transpose_stage<Acc, 1>(sums[r]);
      Vec<Acc> total = sums[r][0];
      for (int n = 1; n < W; ++n) total += sums[r][n];
      store(values + r * kColumns + begin, total);
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
