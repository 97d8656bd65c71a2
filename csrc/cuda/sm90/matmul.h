// The matrix product on warpgroups: a producer copies steps of both operands, by boxes, into a ring of stages; two
// consumers multiply them, each 64 rows of the block's tile. Blocks stay and go from tile to tile, so that the next
// tile's first steps come while this one's sums are written. What becomes of the sums an epilogue of sm80/matmul.h
// says, which is given them slice by slice.
#pragma once

#include "cuda/sm80/matmul.h"
#include "cuda/sm90/warpgroup.h"

namespace seo_kernels::cuda::sm90 {

// Of one consumer: what it sums, and the columns of it that an epilogue sees at a time.
using ConsumerGrid = WarpGrid<1, 32, 4, 1>;
using SliceGrid = WarpGrid<1, 8, 4, 1>;

// Of a block.
using TileGrid = WarpGrid<1, 32, 8, 1>;

struct MatmulTile {
  static constexpr int kConsumers = 2, kRows = TileGrid::kRows, kColumns = TileGrid::kColumns;
  static_assert(kRows == kConsumers * ConsumerGrid::kRows);
  static constexpr int kInner = kPanel, kStages = 4;
  static constexpr int kSlices = kColumns / SliceGrid::kColumns;
};

// The maps of a term's operands, and how many steps of the inner dimension it has.
struct MatmulMaps {
  TensorMap left, right;
  int steps = 0;
};

// Rows of an operand that a tile has, as boxes: along the inner dimension one, of all rows; across it one of 64 rows
// for each panel.
template <int Rows, bool Turned>
struct OperandBoxes {
  static constexpr int kBoxRows = Turned ? MatmulTile::kInner : Rows, kBoxes = Turned ? Rows / kPanel : 1;
  static constexpr int kBoxEntries = kBoxRows * kPanel, kEntries = kBoxes * kBoxEntries;

  template <class Memory>
  SK_DEVICE static void load(const TensorMap& map, Barrier& barrier, Memory& memory, int to, int row, int inner) {
#pragma unroll
    for (int b = 0; b < kBoxes; ++b) {
      const int column = Turned ? row + b * kPanel : inner, line = Turned ? inner : row;
      load_box(map, barrier, memory, to + b * kBoxEntries, column, line, 0, 0);
    }
  }
  template <class Memory>
  SK_DEVICE static Operand operand(Memory& memory, int from, int row, int k) {
    if constexpr (Turned) {
      return column_operand<kBoxRows>(memory, from, row, k);
    } else {
      return row_operand<kBoxRows>(memory, from, row, k);
    }
  }
  static constexpr Major kMajor = Turned ? Major::kOuter : Major::kInner;
};

inline CopySource source_of(const MatmulOperand& operand, DType dtype) {
  return {
      operand.data, dtype, {operand.columns, operand.lines, 1, 1}, {operand.column_stride, operand.line_stride, 0, 0}};
}

// Why the copy engine cannot bring the operands; "" where it can.
inline std::string matmul_refusal(const MatmulParams& p) {
  for (const MatmulTerm& term : p.terms) {
    if (term.steps == 0) continue;
    for (const MatmulOperand* operand : {&term.left, &term.right}) {
      const std::string refusal = copy_refusal(source_of(*operand, p.dtype));
      if (!refusal.empty()) return "an operand cannot be copied, " + refusal;
    }
  }
  return "";
}

// The ring of stages, what a tile's steps bring into it, and their products.
template <class S, bool LeftTurned, bool RightTurned>
struct TileSteps {
  using Tiles = MatmulTile;
  using Left = OperandBoxes<Tiles::kRows, LeftTurned>;
  using Right = OperandBoxes<Tiles::kColumns, RightTurned>;
  using Stage = Ring<Tiles::kStages>;
  struct Shared {
    SwizzledArray<S, Tiles::kStages * Left::kEntries> left;
    SwizzledArray<S, Tiles::kStages * Right::kEntries> right;
    Barrier full[Tiles::kStages], empty[Tiles::kStages];
  };

  static MatmulMaps maps_of(const MatmulTerm& term, DType dtype, const char* op) {
    if (term.steps == 0) return {};
    const int inner = LeftTurned ? term.left.lines : term.left.columns;
    return {map_of(source_of(term.left, dtype), Left::kBoxRows, op),
            map_of(source_of(term.right, dtype), Right::kBoxRows, op), (inner + Tiles::kInner - 1) / Tiles::kInner};
  }

  template <class Block>
  SK_DEVICE static void init(Block& block, Shared& shared) {
    block.for_threads([&](int thread) {
      if (thread >= Tiles::kStages) return;
      init_barrier(shared.full[thread], 1);
      init_barrier(shared.empty[thread], Tiles::kConsumers * kGroupArrivals);
    });
  }

  // By one thread.
  SK_DEVICE static void load(Shared& shared, const MatmulMaps& term, Stage& ring, int row, int column) {
#pragma unroll 1
    for (int s = 0; s < term.steps; ++s) {
      Barrier& full = shared.full[ring.stage];
      wait_alone(shared.empty[ring.stage], ring.parity ^ 1);
      expect_bytes(full, 2 * (Left::kEntries + Right::kEntries));
      const int inner = s * Tiles::kInner;
      Left::load(term.left, full, shared.left, ring.stage * Left::kEntries, row, inner);
      Right::load(term.right, full, shared.right, ring.stage * Right::kEntries, column, inner);
      ring.advance();
    }
  }

  // Of a consumer: sets the sums. change(): after as many steps as is_changed says, the sums being there.
  template <class Group, class IsChanged, class Change>
  SK_DEVICE static void multiply(Group& consumer, Shared& shared, int steps, Stage& ring,
                                 PerThread<ConsumerGrid::Sums>& sums, IsChanged is_changed, Change change) {
    const int own_row = consumer.group() * ConsumerGrid::kRows;
    if (steps == 0) consumer.for_threads([&](int thread) { sums[thread] = ConsumerGrid::Sums{}; });
    int before = 0;  // the stage that products under way read
#pragma unroll 1
    for (int s = 0; s < steps; ++s) {
      consumer.wait(shared.full[ring.stage], ring.parity);
      begin_products(consumer, sums);
#pragma unroll
      for (int k = 0; k < Tiles::kInner / kStep; ++k) {
        multiply_operands<S, Left::kMajor, Right::kMajor>(
            consumer, sums, 0, Left::operand(shared.left, ring.stage * Left::kEntries, own_row, k),
            Right::operand(shared.right, ring.stage * Right::kEntries, 0, k), s > 0 || k > 0);
      }
      commit_products(consumer);
      wait_for_products<1>(consumer, sums);  // those before have read their stage
      if (s > 0) consumer.arrive(shared.empty[before]);
      before = ring.stage;
      ring.advance();
      if (is_changed(s + 1)) {
        wait_for_products<0>(consumer, sums);
        change();
      }
    }
    wait_for_products<0>(consumer, sums);
    if (steps > 0) consumer.arrive(shared.empty[before]);
  }
  template <class Group>
  SK_DEVICE static void multiply(Group& consumer, Shared& shared, int steps, Stage& ring,
                                 PerThread<ConsumerGrid::Sums>& sums) {
    multiply(consumer, shared, steps, ring, sums, [](int) { return false; }, [] {});
  }
};

// Calls f(slice's sums, its place), slice by slice; what f makes of the sums stays.
template <class Group, class F>
SK_DEVICE inline void for_slices(Group& consumer, PerThread<ConsumerGrid::Sums>& sums, int row, int column, F f) {
#pragma unroll
  for (int s = 0; s < MatmulTile::kSlices; ++s) {
    PerThread<SliceGrid::Sums> slice;
    consumer.for_threads([&](int thread) {
#pragma unroll
      for (int n = 0; n < SliceGrid::kN; ++n) slice[thread].at[0][n] = sums[thread].at[0][s * SliceGrid::kN + n];
    });
    f(slice, Placement<SliceGrid>{row, column + s * SliceGrid::kColumns});
    consumer.for_threads([&](int thread) {
#pragma unroll
      for (int n = 0; n < SliceGrid::kN; ++n) sums[thread].at[0][s * SliceGrid::kN + n] = slice[thread].at[0][n];
    });
  }
}

template <class S, bool LeftTurned, bool RightTurned, class Epilogue, class Change = NoChange>
struct MatmulWgmma {
  using Tiles = MatmulTile;
  using Steps = TileSteps<S, LeftTurned, RightTurned>;
  static constexpr int kThreads = warpgroup_threads(Tiles::kConsumers), kBlocksAtOnce = 1;
  struct Shared {
    typename Steps::Shared steps;
    SharedArray<S, SliceGrid::kRows * SliceGrid::kColumns> slice[Tiles::kConsumers];
    typename Epilogue::Shared epilogue[Tiles::kConsumers];
  };
  MatmulMaps terms[2];
  Raster raster;
  int64_t blocks;
  Epilogue epilogue;
  Change change = {};

  template <class Block>
  SK_DEVICE void operator()(Block& block) const {
    Steps::init(block, block.shared().steps);
    run_roles<Tiles::kConsumers>(
        block,
        [&](auto& producer) {
          producer.one_thread([&] {
            typename Steps::Stage ring;
            for_tiles(producer.index(), [&](int row, int column) {
#pragma unroll 1
              for (int t = 0; t < 2; ++t) Steps::load(producer.shared().steps, terms[t], ring, row, column);
            });
          });
        },
        [&](auto& consumer) { consume(consumer); });
  }

 private:
  // Calls f(first row, first column) for the block's tiles.
  template <class F>
  SK_DEVICE void for_tiles(int64_t block, F f) const {
    const int64_t tiles = int64_t{raster.row_tiles} * raster.column_tiles;
#pragma unroll 1
    for (int64_t n = block; n < tiles; n += blocks) {
      const Raster::At tile = raster.at(n);
      f(tile.row_tile * Tiles::kRows, tile.column_tile * Tiles::kColumns);
    }
  }

  template <class Group>
  SK_DEVICE void consume(Group& consumer) const {
    Shared& shared = consumer.shared();
    typename Steps::Stage ring;
    for_tiles(consumer.index(), [&](int first_row, int column) {
      const int row = first_row + consumer.group() * ConsumerGrid::kRows;
      PerThread<ConsumerGrid::Sums> sums;
      Steps::multiply(
          consumer, shared.steps, terms[0].steps + terms[1].steps, ring, sums,
          [&](int done) { return !std::is_same_v<Change, NoChange> && done == terms[0].steps; },
          [&] {
            if constexpr (!std::is_same_v<Change, NoChange>) {
              for_slices(consumer, sums, row, column,
                         [&](auto& slice, const auto& place) { change(consumer, slice, place); });
            }
          });
      for_slices(consumer, sums, row, column, [&](auto& slice, const auto& place) {
        consumer.sync();  // what lay there is read
        epilogue(consumer, slice, place, shared.slice[consumer.group()], shared.epilogue[consumer.group()]);
      });
    });
  }
};

// As many blocks as multiprocessors, and no more than tiles.
int64_t resident_blocks();

// As launch_matmul of sm80/matmul.h; operands are such that matmul_refusal says nothing.
template <LeftLayouts kLeft, class EpilogueOf, class Change = NoChange>
inline void launch_on_warpgroups(const MatmulParams& p, EpilogueOf epilogue_of, Stream stream, const char* op,
                                 const Change& change = {}) {
  const Raster raster = raster_of<TileGrid>(p.rows, p.columns);
  const int64_t blocks = std::min(raster.tiles(), resident_blocks());
  with_16_bits(p.dtype, [&](auto stored) {
    const auto epilogue = epilogue_of(stored);
    const auto with_layouts = [&](auto left, auto right) {
      using Epilogue = std::remove_const_t<decltype(epilogue)>;
      using Kernel = MatmulWgmma<decltype(stored), decltype(left)::value, decltype(right)::value, Epilogue, Change>;
      using Steps = typename Kernel::Steps;
      const Kernel kernel{{Steps::maps_of(p.terms[0], p.dtype, op), Steps::maps_of(p.terms[1], p.dtype, op)},
                          raster,
                          blocks,
                          epilogue,
                          change};
      launch(kernel, blocks, stream, op);
    };
    const auto with_left = [&](auto left) {
      p.right_turned ? with_layouts(left, std::true_type{}) : with_layouts(left, std::false_type{});
    };
    if constexpr (kLeft == LeftLayouts::kBoth) {
      if (p.left_turned) return with_left(std::true_type{});
    }
    if (p.left_turned) throw std::logic_error("a turned left operand, of which a product knows nothing");
    with_left(std::false_type{});
  });
}

}  // namespace seo_kernels::cuda::sm90
