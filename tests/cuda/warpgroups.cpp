// What warpgroups do, run by the host executor, without a mistake and with one of each kind: warpgroups WHAT [MISTAKE]
// says "right", or what is wrong.
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "cuda/sm80/matmul_store.h"
#include "cuda/sm90/matmul.cu"
#include "program.h"

namespace seo_kernels::cuda {
namespace {

// A matrix of small numbers, of which all sums are exact; rows lie `ld` entries apart.
template <class S>
struct Matrix {
  int rows, columns, ld;
  std::vector<Chunk<S, 8>> memory;

  Matrix(int rows, int columns, int salt) : rows(rows), columns(columns), ld((columns + 7) / 8 * 8) {
    memory.resize(rows * ld / 8 + 1);
    for (int n = 0; n < rows * ld; ++n) data()[n] = narrow<S>(static_cast<float>((n + salt) * 7 % 11 - 5) / 4);
  }
  S* data() { return memory[0].element; }
  float at(int row, int column) { return widen(data()[row * ld + column]); }
  CopySource source() {
    const DType dtype = std::is_same_v<S, BFloat16> ? DType::kBFloat16 : DType::kFloat16;
    return {data(), dtype, {columns, rows, 1, 1}, {1, ld, 0, 0}};
  }
};

enum class Left { kRows, kColumns, kRegisters, kWritten };

constexpr int kInner = 64;

// out (64, N) = left . right over 64 inner entries, each operand along its major
template <class S, int N, Left kLeft, Major kRight>
struct Products {
  static constexpr int kThreads = warpgroup_threads(1);
  static constexpr int kRightRows = kRight == Major::kInner ? N : kInner;
  static constexpr int kRightPanels = kRight == Major::kInner ? 1 : (N + kPanel - 1) / kPanel;
  struct Shared {
    SwizzledArray<S, kGroupRows * kInner> left, written;
    SwizzledArray<S, kRightRows * kPanel * kRightPanels> right;
    Barrier full;
  };
  TensorMap left, right;
  float* out;

  template <class Block>
  void operator()(Block& block) const {
    Shared& shared = block.shared();
    block.for_threads([&](int thread) {
      if (thread == 0) init_barrier(shared.full, 1);
    });
    run_roles<1>(
        block,
        [&](auto& producer) {
          producer.one_thread([&] {
            constexpr int panel = kRightRows * kPanelBytes;
            expect_bytes(shared.full, kGroupRows * kPanelBytes + kRightPanels * panel);
            load_box(left, shared.full, shared.left, 0, 0, 0, 0, 0);
            for (int p = 0; p < kRightPanels; ++p) {
              load_box(right, shared.full, shared.right, p * kRightRows * kPanel, p * kPanel, 0, 0, 0);
            }
          });
        },
        [&](auto& consumer) { multiply_and_write(consumer); });
  }

  template <class Group>
  void multiply_and_write(Group& consumer) const {
    Shared& shared = consumer.shared();
    PerThread<Tile<1, N / 8>> sums;
    if (!has("no-wait")) consumer.wait(shared.full, 0);
    if constexpr (kLeft == Left::kWritten) {
      consumer.for_threads([&](int thread) {
        for (int n = thread * 8; n < kGroupRows * kInner; n += kGroupThreads * 8) {
          shared.written.template set_pack<8>(n, shared.left.template pack<8>(n));
        }
      });
      if (!has("unseen")) consumer.show_to_engines();
      if (!has("no-barrier")) consumer.sync();
    }
    if (!has("unnamed")) begin_products(consumer, sums);
    for (int k = 0; k < kInner / kStep; ++k) {
      Operand right = kRight == Major::kInner ? row_operand<kRightRows>(shared.right, 0, 0, k)
                                              : column_operand<kRightRows>(shared.right, 0, 0, k);
      if (has("swizzle")) right.descriptor ^= kSwizzle128 | kSwizzle128 << 1;
      if (has("stride")) right.descriptor += uint64_t{1} << 32;
      if (has("start")) right.descriptor += kPanelBytes >> 4;
      if constexpr (kLeft == Left::kRegisters) {
        PerThread<Fragment> fragment;
        read_matrices<false>(
            consumer, shared.left, [&](int thread) -> Fragment& { return fragment[thread]; },
            [&](int thread) {
              const int lane = thread % kWarp;
              return panel_place<kGroupRows>(thread / kWarp * 16 + lane % 16, kStep * k + lane / 16 * 8);
            });
        multiply_operands<S, kRight>(consumer, sums, 0, fragment, right, k > 0);
      } else if constexpr (kLeft == Left::kColumns) {
        const Operand left = column_operand<kInner>(shared.left, 0, 0, k);
        multiply_operands<S, Major::kOuter, kRight>(consumer, sums, 0, left, right, k > 0);
      } else {
        const Operand left = row_operand<kGroupRows>(kLeft == Left::kWritten ? shared.written : shared.left, 0, 0, k);
        multiply_operands<S, Major::kInner, kRight>(consumer, sums, 0, left, right, k > 0);
      }
    }
    if (has("in-flight")) consumer.for_threads([&](int thread) { sums[thread].at[0][0].at[0] = 0.0f; });
    if (has("overwritten")) consumer.for_threads([&](int thread) { shared.right[thread] = S{}; });
    commit_products(consumer);
    if (!has("no-product-wait")) wait_for_products<0>(consumer, sums);
    consumer.for_threads([&](int thread) {
      for (int n = 0; n < N / 8; ++n) {
        for (int e = 0; e < 4; ++e) {
          const int row = thread / kWarp * 16 + Lane(thread).row + e / 2 * 8,
                    column = 8 * n + Lane(thread).column + e % 2;
          out[row * N + column] = sums[thread].at[0][n].at[e];
        }
      }
    });
  }
};

template <class S, int N, Left kLeft, Major kRight>
void product() {
  using Kernel = Products<S, N, kLeft, kRight>;
  Matrix<S> left(kGroupRows, kInner, 1);
  Matrix<S> right(kRight == Major::kInner ? N : kInner, kRight == Major::kInner ? kInner : N, 5);
  std::vector<float> out(kGroupRows * N);
  launch(Kernel{map_of(left.source(), kGroupRows, "products"), map_of(right.source(), Kernel::kRightRows, "products"),
                out.data()},
         1, nullptr, "products");
  for (int i = 0; i < kGroupRows; ++i) {
    for (int j = 0; j < N; ++j) {
      float sum = 0;
      for (int k = 0; k < kInner; ++k) {
        sum += (kLeft == Left::kColumns ? left.at(k, i) : left.at(i, k)) *
               (kRight == Major::kInner ? right.at(j, k) : right.at(k, j));
      }
      expect(out[i * N + j] == sum, "a product at " + std::to_string(i) + ", " + std::to_string(j));
    }
  }
}

template <class S, int N>
void layouts() {
  product<S, N, Left::kRows, Major::kInner>();
  product<S, N, Left::kColumns, Major::kInner>();
  product<S, N, Left::kRegisters, Major::kOuter>();
  product<S, N, Left::kWritten, Major::kOuter>();
}

void widths() {
  product<Float16, 16, Left::kRows, Major::kInner>();
  product<Float16, 32, Left::kRows, Major::kOuter>();
  product<Float16, 64, Left::kRegisters, Major::kInner>();
  product<Float16, 96, Left::kRows, Major::kOuter>();
  product<Float16, 128, Left::kRows, Major::kInner>();
  product<Float16, 192, Left::kColumns, Major::kOuter>();
}

// out = left . right^T, tile after tile of 128 rows and 64 columns, through a ring of stages that two consumers read
struct Pipeline {
  static constexpr int kConsumers = 2, kThreads = warpgroup_threads(kConsumers), kStages = 3;
  static constexpr int kRows = kConsumers * kGroupRows, kColumns = 64, kBlocks = 2;
  using S = BFloat16;
  struct Shared {
    SwizzledArray<S, kStages * kRows * kPanel> left;
    SwizzledArray<S, kStages * kColumns * kPanel> right;
    Barrier full[kStages], empty[kStages];
  };
  TensorMap left, right;
  float* out;
  int rows, columns, inner;

  template <class F>
  void for_tiles(int64_t block, F f) const {
    const int down = (rows + kRows - 1) / kRows, across = (columns + kColumns - 1) / kColumns;
    for (int64_t n = block; n < down * across; n += kBlocks) {
      f(static_cast<int>(n) % down * kRows, static_cast<int>(n) / down * kColumns);
    }
  }
  int steps() const { return (inner + kPanel - 1) / kPanel; }

  template <class Block>
  void operator()(Block& block) const {
    Shared& shared = block.shared();
    block.for_threads([&](int thread) {
      if (thread >= kStages) return;
      init_barrier(shared.full[thread], 1);
      init_barrier(shared.empty[thread], (has("missing-arrival") ? kConsumers + 1 : kConsumers) * kGroupArrivals);
    });
    run_roles<kConsumers>(
        block, [&](auto& producer) { produce(producer); }, [&](auto& consumer) { consume(consumer); });
  }

  template <class Group>
  void produce(Group& producer) const {
    Shared& shared = producer.shared();
    producer.one_thread([&] {
      Ring<kStages> ring;
      for_tiles(producer.index(), [&](int row, int column) {
        for (int k = 0; k < steps(); ++k) {
          Barrier& full = shared.full[ring.stage];
          if (!has("no-empty-wait")) wait_alone(shared.empty[ring.stage], ring.parity ^ (has("empty-parity") ? 0 : 1));
          expect_bytes(full, (kRows + kColumns) * kPanelBytes + (has("bytes") ? 16 : has("few-bytes") ? -16 : 0));
          load_box(left, full, shared.left, ring.stage * kRows * kPanel, k * kPanel, row, 0, 0);
          load_box(right, full, shared.right, ring.stage * kColumns * kPanel, k * kPanel, column, 0, 0);
          ring.advance();
        }
      });
    });
  }

  template <class Group>
  void consume(Group& consumer) const {
    Shared& shared = consumer.shared();
    Ring<kStages> ring;
    for_tiles(consumer.index(), [&](int first_row, int first_column) {
      PerThread<Tile<1, kColumns / 8>> sums;
      int before = -1;  // the stage that products under way read
      for (int k = 0; k < steps(); ++k) {
        if (!has("no-full-wait") || k == 0) consumer.wait(shared.full[ring.stage], ring.parity ^ has("full-parity"));
        begin_products(consumer, sums);
        for (int step = 0; step < kPanel / kStep; ++step) {
          multiply_operands<S, Major::kInner, Major::kInner>(
              consumer, sums, 0,
              row_operand<kRows>(shared.left, ring.stage * kRows * kPanel, consumer.group() * kGroupRows, step),
              row_operand<kColumns>(shared.right, ring.stage * kColumns * kPanel, 0, step), k + step > 0);
        }
        commit_products(consumer);
        if (!has("late-wait")) wait_for_products<1>(consumer, sums);
        const int read = has("early-arrival") ? ring.stage : before;
        if (read >= 0 && !(has("arrives-not") && consumer.group() == 1)) consumer.arrive(shared.empty[read]);
        before = has("early-arrival") ? -1 : ring.stage;
        ring.advance();
      }
      wait_for_products<0>(consumer, sums);
      if (before >= 0) consumer.arrive(shared.empty[before]);
      if (has("arrives-twice")) consumer.arrive(shared.empty[before]);
      consumer.for_threads([&](int thread) {
        for (int n = 0; n < kColumns / 8; ++n) {
          for (int e = 0; e < 4; ++e) {
            const int row =
                first_row + consumer.group() * kGroupRows + thread / kWarp * 16 + Lane(thread).row + e / 2 * 8;
            const int column = first_column + 8 * n + Lane(thread).column + e % 2;
            if (row < rows && column < columns) out[row * columns + column] = sums[thread].at[0][n].at[e];
          }
        }
      });
    });
  }
};

void pipeline() {
  for (const auto [rows, columns, inner] : {std::array{1, 1, 1}, {129, 70, 63}, {100, 257, 200}, {256, 64, 512}}) {
    Matrix<BFloat16> left(rows, inner, 3), right(columns, inner, 4);
    std::vector<float> out(rows * columns);
    launch(Pipeline{map_of(left.source(), Pipeline::kRows, "pipeline"),
                    map_of(right.source(), Pipeline::kColumns, "pipeline"), out.data(), rows, columns, inner},
           Pipeline::kBlocks, nullptr, "pipeline");
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) {
        float sum = 0;
        for (int k = 0; k < inner; ++k) sum += left.at(i, k) * right.at(j, k);
        expect(out[i * columns + j] == sum, "a product at " + std::to_string(i) + ", " + std::to_string(j));
      }
    }
  }
}

// What is copied lies where panel_place says, zeros beyond the tensor's ends; and each entry has a place of its own.
struct Boxes {
  static constexpr int kThreads = warpgroup_threads(1), kRows = 24;
  struct Shared {
    SwizzledArray<Float16, kRows * kPanel> box;
    Barrier full;
  };
  TensorMap map;
  int column, row, head, batch;
  float* out;

  template <class Block>
  void operator()(Block& block) const {
    Shared& shared = block.shared();
    block.for_threads([&](int thread) {
      if (thread == 0) init_barrier(shared.full, 1);
    });
    run_roles<1>(
        block,
        [&](auto& producer) {
          producer.one_thread([&] {
            expect_bytes(shared.full, kRows * kPanelBytes);
            load_box(map, shared.full, shared.box, 0, column, row, head, batch);
          });
        },
        [&](auto& consumer) {
          consumer.wait(shared.full, 0);
          consumer.for_threads([&](int thread) {
            for (int n = thread; n < kRows * kPanel; n += kGroupThreads) {
              out[n] = widen(Float16(shared.box[panel_place<kRows>(n / kPanel, n % kPanel)]));
            }
          });
        });
  }
};

void boxes() {
  std::set<int> places;
  for (int n = 0; n < 24 * 128; ++n)
    expect(places.insert(panel_place<24>(n / 128, n % 128)).second, "two in one place");
  // (batch 2, head 3, row 30, column 100), heads side by side in a row of 3 * 104
  Matrix<Float16> memory(2 * 30, 3 * 104, 2);
  const CopySource source{memory.data(), DType::kFloat16, {100, 30, 3, 2}, {1, 312, 104, 30 * 312}};
  std::vector<float> out(Boxes::kRows * kPanel);
  for (const int column : {0, 64, -8}) {
    for (const int row : {0, 16, -3}) {
      for (const int head : {0, 2, 3}) {
        launch(Boxes{map_of(source, Boxes::kRows, "boxes"), column, row, head, 1, out.data()}, 1, nullptr, "boxes");
        for (int n = 0; n < Boxes::kRows * kPanel; ++n) {
          const int r = row + n / kPanel, c = column + n % kPanel;
          const bool there = r >= 0 && r < 30 && c >= 0 && c < 100 && head < 3;
          expect(out[n] == (there ? memory.at(30 + r, 104 * head + c) : 0.0f), "an entry of a box");
        }
      }
    }
  }
}

void refusals() {
  std::vector<Chunk<Float16, 8>> memory(100);
  const auto refusal = [&](int64_t skip, int64_t columns, int64_t column_stride, int64_t row_stride) {
    return copy_refusal(
        {memory[0].element + skip, DType::kFloat16, {columns, 4, 1, 1}, {column_stride, row_stride, 3, 3}});
  };
  expect(refusal(0, 60, 1, 64).empty(), "a matrix in pieces of 16 bytes");
  expect(!refusal(1, 60, 1, 64).empty(), "a matrix that begins anywhere");
  expect(!refusal(0, 60, 2, 128).empty(), "columns apart");
  expect(!refusal(0, 60, 1, 60).empty(), "rows that begin anywhere");
  expect(!refusal(0, 60, 1, 0).empty(), "one row again and again");
}

// Sums as they are, each written once.
struct KeepSums {
  struct Shared {};
  std::vector<float>* sums;
  int rows, columns;

  template <class Block, class Grid, class Memory>
  void operator()(Block& block, PerThread<typename Grid::Sums>& of, const Placement<Grid>& place, Memory&,
                  Shared&) const {
    block.for_threads([&](int thread) {
      for (int n = 0; n < Grid::kN; ++n) {
        for (int e = 0; e < 4; ++e) {
          const int row = place.row(thread, 0, e / 2), column = place.column(thread, n, e % 2);
          if (row >= rows || column >= columns) continue;
          float& sum = (*sums)[row * columns + column];
          expect(std::isnan(sum), "an entry that is written twice");
          sum = of[thread].at[0][n].at[e];
        }
      }
    });
  }
};

struct Size {
  int rows, columns, inner, more;  // more: the inner dimension of a second term, or 0
};

template <class S>
void check_matmul(const Size& size, bool left_turned, bool right_turned) {
  const auto operand = [](int rows, int columns, bool turned, int salt) {
    return Matrix<S>(turned ? columns : rows, turned ? rows : columns, salt);
  };
  const auto view = [](Matrix<S>& matrix, bool turned) {
    const DType dtype = matrix.source().dtype;
    MatrixView view{matrix.data(), dtype, matrix.rows, matrix.columns, matrix.ld, 1};
    return turned ? view.transposed() : view;
  };
  const auto entry = [](Matrix<S>& matrix, bool turned, int row, int column) {
    return turned ? matrix.at(column, row) : matrix.at(row, column);
  };
  const int inner[2] = {size.inner, size.more};
  std::vector<Matrix<S>> left, right;
  for (int t = 0; t < 2; ++t) {
    left.push_back(operand(size.rows, inner[t], left_turned, 1 + t));
    right.push_back(operand(size.columns, inner[t], right_turned, 3 + t));
  }
  MatmulParams p(view(left[0], left_turned), view(right[0], right_turned), left_turned, right_turned);
  if (size.more > 0) p.add(view(left[1], left_turned), view(right[1], right_turned));
  expect(sm90::matmul_refusal(p).empty(), "operands that can be copied are refused");
  std::vector<float> sums(size.rows * size.columns, NAN);
  sm90::launch_on_warpgroups<LeftLayouts::kBoth>(
      p, [&](auto) { return KeepSums{&sums, size.rows, size.columns}; }, nullptr, "matmul");
  Matrix<S> stored(size.rows, size.columns, 0);
  const MatmulOut out(view(stored, false));
  sm90::launch_on_warpgroups<LeftLayouts::kBoth>(
      p, [&](auto type) { return StoreProduct<decltype(type)>{out}; }, nullptr, "matmul");
  for (int i = 0; i < size.rows; ++i) {
    for (int j = 0; j < size.columns; ++j) {
      float sum = 0;
      for (int t = 0; t < 2; ++t) {
        for (int k = 0; k < inner[t]; ++k) {
          sum += entry(left[t], left_turned, i, k) * entry(right[t], right_turned, j, k);
        }
      }
      const std::string at = " at " + std::to_string(i) + ", " + std::to_string(j);
      expect(sums[i * size.columns + j] == sum, "a sum" + at);
      expect(stored.at(i, j) == widen(narrow<S>(sum)), "what is stored" + at);
    }
  }
}

template <class S>
void matmul() {
  for (const Size& size : {Size{1, 1, 1, 0}, {70, 257, 40, 16}, {300, 520, 136, 8}}) {
    check_matmul<S>(size, false, false);
    check_matmul<S>(size, true, false);
    check_matmul<S>(size, false, true);
    check_matmul<S>(size, true, true);
  }
  check_matmul<S>({129, 20, 640, 0}, false, false);  // more steps than stages
  check_matmul<S>({129, 20, 0, 0}, false, false);
}

// Registers of all threads are within those of a multiprocessor.
void registers() {
  for (const int blocks : {1, 2}) {
    for (const int consumers : {1, 2, 3}) {
      const int entry = entry_registers(consumers, blocks), more = consumer_registers(consumers, blocks);
      if (more <= entry) continue;
      const int after = consumers * more + producer_registers(consumers);
      expect(entry % 8 == 0 && more % 8 == 0 && more <= 240, "registers in steps of 8");
      expect(after <= entry * (consumers + 1), "more registers than at the entry");
    }
  }
  expect(consumer_registers(2, 1) == 232 && consumer_registers(3, 1) == 160, "registers of consumers");
}

}  // namespace
}  // namespace seo_kernels::cuda

int main(int count, char** arguments) {
  using namespace seo_kernels::cuda;
  return run_program(count, arguments,
                     {{"narrow", layouts<BFloat16, 8>},
                      {"wide", layouts<BFloat16, 256>},
                      {"widths", widths},
                      {"rows", product<Float16, 128, Left::kRows, Major::kInner>},
                      {"written", product<BFloat16, 8, Left::kWritten, Major::kOuter>},
                      {"pipeline", pipeline},
                      {"boxes", boxes},
                      {"refusals", refusals},
                      {"matmul bfloat16", matmul<BFloat16>},
                      {"matmul float16", matmul<Float16>},
                      {"registers", registers}});
}
