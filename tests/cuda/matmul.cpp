// The tensor cores' matrix product, run by the host executor, without a mistake and with one of each kind: matmul WHAT
// [MISTAKE] says "right", or what is wrong.
#include <set>
#include <string>
#include <vector>

#include "cuda/sm80/matmul_store.h"
#include "program.h"

namespace seo_kernels::cuda {
namespace {

enum class Layout { kRows, kTurned, kRagged, kTurnedRagged, kScattered, kExpanded };

// A matrix of small integers over 4: all sums are exact. What lies between its entries is NaN.
template <class S>
struct Matrix {
  std::vector<S> memory;
  MatrixView view;

  Matrix(int64_t rows, int64_t columns, Layout layout, int seed) {
    view.dtype = std::is_same_v<S, BFloat16> ? DType::kBFloat16 : DType::kFloat16;
    view.rows = rows;
    view.columns = columns;
    const bool turned = layout == Layout::kTurned || layout == Layout::kTurnedRagged;
    const int64_t lines = turned ? columns : rows, width = turned ? rows : columns;
    const bool whole = layout == Layout::kRows || layout == Layout::kTurned;
    const int64_t apart = layout == Layout::kScattered ? 3 : 1;
    const int64_t stride = layout == Layout::kExpanded ? 0 : whole ? (width + 7) / 8 * 8 + 8 : width * apart + 1;
    memory.assign(lines * stride + width * apart + 16, narrow<S>(NAN));
    view.data = memory.data() + (8 - reinterpret_cast<uintptr_t>(memory.data()) / 2 % 8) % 8 + (whole ? 0 : 1);
    view.row_stride = turned ? apart : stride;
    view.column_stride = turned ? stride : apart;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) {
        const int64_t n = (layout == Layout::kExpanded ? 0 : row * columns) + column;
        at(row, column) = narrow<S>(static_cast<float>((n * 7 + seed) % 11 - 5) / 4);
      }
    }
  }

  S& at(int64_t row, int64_t column) const {
    return static_cast<S*>(view.data)[row * view.row_stride + column * view.column_stride];
  }
};

// Sums as they are, each written once.
struct KeepSums {
  struct Shared {};
  float* sums;
  int* times;
  int rows, columns;

  template <class Block, class Grid, class Memory>
  void operator()(Block& block, PerThread<typename Grid::Sums>& of, const Placement<Grid>& place, Memory&,
                  Shared&) const {
    block.for_threads([&](int thread) {
      for (int m = 0; m < Grid::kM; ++m) {
        for (int n = 0; n < Grid::kN; ++n) {
          for (int e = 0; e < 4; ++e) {
            const int row = place.row(thread, m, e / 2);
            const int column = place.column(thread, n, has("column") ? 1 - e % 2 : e % 2);
            if (row >= rows || column >= columns) continue;
            sums[row * columns + column] = of[thread].at[m][n].at[e];
            ++times[row * columns + column];
          }
        }
      }
    });
  }
};

struct Size {
  int64_t rows, columns, inner, more;  // more: the inner dimension of a second term, or -1
};

std::string text_of(const Size& size, Layout left, Layout right) {
  return " of " + std::to_string(size.rows) + " x " + std::to_string(size.columns) + " x " +
         std::to_string(size.inner) + " + " + std::to_string(size.more) + ", layouts " +
         std::to_string(static_cast<int>(left)) + " and " + std::to_string(static_cast<int>(right));
}

template <class S>
void check_product(const Size& size, Layout left_layout, Layout right_layout) {
  const std::string what = text_of(size, left_layout, right_layout);
  const Matrix<S> left(size.rows, size.inner, left_layout, 1), right(size.columns, size.inner, right_layout, 2);
  const int64_t more = std::max<int64_t>(size.more, 0);
  const Matrix<S> left_more(size.rows, more, left_layout, 3), right_more(size.columns, more, Layout::kRows, 4);
  MatmulParams p(left.view, right.view);
  if (size.more >= 0 && !has("one-term")) p.add(left_more.view, right_more.view);
  const int64_t entries = size.rows * size.columns;
  std::vector<float> sums(entries), wanted(entries);
  std::vector<int> times(entries);
  const int rows = static_cast<int>(size.rows), columns = static_cast<int>(size.columns);
  launch_matmul<LeftLayouts::kBoth>(
      p, [&](auto) { return KeepSums{sums.data(), times.data(), rows, columns}; }, nullptr, "matmul");
  const Matrix<S> stored(size.rows, size.columns, size.columns % 8 == 0 ? Layout::kRows : Layout::kRagged, 5);
  MatrixView written = stored.view;
  if (has("short")) --written.columns;
  const MatmulOut out(written);
  launch_matmul<LeftLayouts::kBoth>(
      p, [&](auto stored_type) { return StoreProduct<decltype(stored_type)>{out}; }, nullptr, "matmul");
  for (int64_t i = 0; i < size.rows; ++i) {
    for (int64_t j = 0; j < size.columns; ++j) {
      float sum = 0;
      for (int64_t k = 0; k < size.inner; ++k) sum += widen(left.at(i, k)) * widen(right.at(j, k));
      for (int64_t k = 0; k < more; ++k) sum += widen(left_more.at(i, k)) * widen(right_more.at(j, k));
      const std::string at = " at " + std::to_string(i) + ", " + std::to_string(j) + what;
      expect(times[i * size.columns + j] == 1, "an entry not written once" + at);
      expect(sums[i * size.columns + j] == sum, "a sum" + at);
      expect(widen(stored.at(i, j)) == widen(narrow<S>(sum)), "what is stored" + at);
    }
  }
}

template <class S>
void layouts() {
  const Size ragged{130, 264, 72, 16};
  for (const Layout left : {Layout::kRows, Layout::kTurned, Layout::kRagged, Layout::kScattered}) {
    for (const Layout right : {Layout::kRows, Layout::kTurned, Layout::kTurnedRagged}) {
      check_product<S>(ragged, left, right);
    }
  }
  check_product<S>({64, 40, 33, -1}, Layout::kExpanded, Layout::kTurnedRagged);
}

template <class S>
void sizes() {
  for (const Size& size : std::vector<Size>{{1, 1, 1, -1},
                                            {1, 257, 31, 1},
                                            {129, 1, 160, -1},
                                            {5, 9, 0, 3},
                                            {5, 9, 3, 0},
                                            {4, 8, 0, -1},
                                            {100, 63, 300, 33},
                                            {257, 300, 200, 8}}) {
    check_product<S>(size, Layout::kRows, Layout::kRows);
    check_product<S>(size, Layout::kTurned, Layout::kTurned);
  }
}

template <int Width>
void swizzle() {
  std::set<int> places;
  for (int line = 0; line < 64; ++line) {
    for (int column = 0; column < Width; ++column) {
      const int at = staged<Width>(line, column);
      expect(at >= 0 && at < 64 * Width && places.insert(at).second, "two entries in one place");
      expect(at % 8 == column % 8, "a piece of 16 bytes is torn");
    }
  }
  for (int line = 0; line < 64; line += 8) {
    for (int column = 0; column < Width; column += 8) {
      std::set<int> banks;
      for (int n = 0; n < 8; ++n) {
        const int at = has("plain") ? (line + n) * Width + column : staged<Width>(line + n, column);
        banks.insert(at / 8 % 8);
      }
      expect(banks.size() == 8, "two lines of a matrix in the same banks");
    }
  }
}

// Every tile comes once, and those that come together are close.
void raster() {
  for (const auto& [rows, columns] : std::vector<std::pair<int, int>>{{1, 1}, {16, 3}, {17, 5}, {40, 40}, {3, 100}}) {
    const Raster raster{rows, columns};
    std::set<std::pair<int, int>> seen;
    for (int64_t n = 0; n < raster.tiles(); ++n) {
      const Raster::At at = raster.at(has("twice") && n == 2 ? 1 : n);
      expect(at.row_tile >= 0 && at.row_tile < rows && at.column_tile >= 0 && at.column_tile < columns,
             "a tile that is none");
      expect(seen.insert({at.row_tile, at.column_tile}).second, "a tile that comes twice");
    }
    expect(static_cast<int64_t>(seen.size()) == raster.tiles(), "a tile that does not come");
  }
  const Raster raster{64, 64};
  std::set<int> rows, columns;
  for (int n = 0; n < 128; ++n) {
    rows.insert(raster.at(n).row_tile);
    columns.insert(raster.at(n).column_tile);
  }
  expect(rows.size() == 16 && columns.size() == 8, "blocks that run at once read much");
}

// The copies' and warps' order, by the executor's own checks.
template <bool Wait, bool Sync>
struct Hasty {
  using Tiles = TileProduct<BFloat16, MatmulGrid, false, false>;
  static constexpr int kThreads = MatmulGrid::kThreads;
  struct Shared {
    SharedArray<BFloat16, Tiles::kStage> stage;
  };
  MatmulOperand operand;

  template <class Block>
  void operator()(Block& block) const {
    auto& memory = block.shared().stage;
    block.for_threads([&](int thread) {
      copy_lines<BFloat16, MatmulGrid::kRows, 32, kThreads>(memory, 0, thread, operand, 0, 0, true);
    });
    commit_copies(block);
    if (Wait) wait_for_copies<0>(block);
    if (Sync) block.sync();
    PerThread<Fragment> fragment;
    read_matrices<false>(
        block, memory, [&](int thread) -> Fragment& { return fragment[thread]; },
        [&](int thread) { return staged<32>(thread % kWarp, 0); });
    if (!Wait) wait_for_copies<0>(block);
  }
};

void order() {
  const Matrix<BFloat16> matrix(128, 32, Layout::kRows, 1);
  const MatmulOperand operand(matrix.view, false);
  if (has("no-wait")) return launch(Hasty<false, true>{operand}, 1, nullptr, "order");
  if (has("no-barrier")) return launch(Hasty<true, false>{operand}, 1, nullptr, "order");
  launch(Hasty<true, true>{operand}, 1, nullptr, "order");
}

}  // namespace
}  // namespace seo_kernels::cuda

int main(int count, char** arguments) {
  using namespace seo_kernels::cuda;
  return run_program(count, arguments,
                     {{"layouts bfloat16", layouts<BFloat16>},
                      {"layouts float16", layouts<Float16>},
                      {"sizes", sizes<BFloat16>},
                      {"swizzle 32", swizzle<32>},
                      {"swizzle 128", swizzle<128>},
                      {"swizzle 256", swizzle<256>},
                      {"raster", raster},
                      {"order", order}});
}
