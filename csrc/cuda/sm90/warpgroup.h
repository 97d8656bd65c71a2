// What warpgroups, four warps each, do in a block of the tier sm90a: some multiply, and one brings them what they
// multiply. A kernel has kThreads = warpgroup_threads(Consumers) and begins with what all of its threads do together,
// barriers above all; then
//
//   run_roles<Consumers>(block, [&](auto& producer) { ... }, [&](auto& consumer) { ... });
//
// runs the consumers and, beside them, the producer, and is the kernel's last statement. Either is a Block of 128
// threads, numbered from 0, to all that takes one: for_threads, sync (of its own threads), sync_warp, combine, index,
// shared; and group(), which of the consumers it is. Consumers have the registers that the producer leaves them.
//
// Tiles of 2-byte entries that are copied or multiplied here lie in a SwizzledArray, in panels of 64 columns: entry
// (row, column) of a tile of `Rows` rows is panel_place<Rows>(row, column) entries from its first, which is a multiple
// of 512. A panel is what read_matrices and store_tile know as swizzled<64>.
//
// Barriers (Shared holds Barrier, or Barrier[N]) count arrivals and bytes, and complete phase after phase. Phases 0, 2,
// ... have parity 0, the others parity 1; to wait with parity 1 before any is complete is to wait for nothing.
//
//   init_barrier(barrier, arrivals)      by a thread of the block, before roles; each arrive of a group counts
//                                        kGroupArrivals, each expect_bytes one
//   group.arrive(barrier)                what its threads did before is done for those who wait; joined by its products
//                                        where they were waited for
//   group.wait(barrier, parity)          until the phase of that parity is complete
//   group.one_thread(f)                  f() by one of the group's threads; in it, and only there:
//     wait_alone(barrier, parity)        the same for that thread
//     expect_bytes(barrier, bytes)       arrives; the phase also takes that many bytes
//     load_box(map, barrier, memory, n, column, row, head, batch)
//                                        begins to copy the map's box from there on to entry n of `memory`, zeros
//                                        where the tensor ends, and counts its bytes on the barrier
//   group.show_to_engines()              what threads wrote to shared memory is seen by products and copies: between
//                                        the writes and the sync or arrive that comes before those
//
// A TensorMap is made on the host and is a member of the kernel: map_of(...); copy_refusal(...) says why there can be
// none.
//
// Products, `Sums` being PerThread<Tile<M, N / 8>> with the parts of 64 rows and N columns in its row m, as those of
// mma.m16n8k16 one below the other: thread's warp w has rows 16 w to 16 w + 15.
//
//   begin_products(group, sums...)       before each batch: names the sums that it adds to
//   settle(fragments)                    before the batch that has them on its left: they are in registers by then
//   multiply_operands<S, MajorLeft, MajorRight>(group, sums, m, left, right, add)
//                                        sums = left . right (+ sums where `add`) over 16 inner entries. left: an
//                                        Operand, or a PerThread<Fragment> as as_left makes it (then without MajorLeft)
//   commit_products(group)               ends the batch
//   wait_for_products<Late>(group, sums...)  for all but the last Late batches; names their sums. Until then nobody
//                                        touches those, nor overwrites what they read
//
// An Operand is 16 inner entries wide: rows of a tile that follow the inner dimension (Major::kInner), or columns of a
// tile of which the rows do (Major::kOuter), as values in weights . values.
//
//   row_operand<Rows>(memory, first, row, k)        rows from `row` on, a multiple of 8; columns 16 k to 16 k + 15
//   column_operand<Rows>(memory, first, column, k)  columns from `column` on, a multiple of 64; rows 16 k to 16 k + 15
//
// first: the entry where the tile begins.
#pragma once

#include <string>

#include "cuda/sm80/tiles.h"

namespace seo_kernels::cuda {

constexpr int kGroupThreads = 128, kGroupWarps = kGroupThreads / kWarp;
constexpr int kGroupArrivals = kGroupWarps;  // one of each warp
constexpr int kGroupRows = 64;               // of a product

constexpr int warpgroup_threads(int consumers) { return kGroupThreads * (consumers + 1); }

// Registers of a thread: at the kernel's entry, of the producer, and of a consumer, in steps of 8.
constexpr int entry_registers(int consumers, int blocks) {
  const int even = 65536 / (warpgroup_threads(consumers) * blocks) / 8 * 8;
  return even < 255 ? even : 255;
}
constexpr int producer_registers(int consumers) { return consumers < 3 ? 40 : 32; }
constexpr int consumer_registers(int consumers, int blocks) {
  const int left = (entry_registers(consumers, blocks) * (consumers + 1) - producer_registers(consumers)) / consumers;
  return left < 240 ? left / 8 * 8 : 240;
}

constexpr int kPanel = 64;           // columns
constexpr int kPanelBytes = 128;     // of a row
constexpr int kSwizzleBytes = 1024;  // after which the swizzle repeats: tiles begin there

// On the host as on the device, whole tiles begin at multiples of kSwizzleBytes.
template <class S, int N>
struct alignas(kSwizzleBytes) SwizzledArray : SharedArray<S, N> {
  static_assert(sizeof(S) == 2);
};

template <int Rows>
SK_DEVICE constexpr int panel_place(int row, int column) {
  return column / kPanel * (Rows * kPanel) + swizzled<kPanel>(row, column % kPanel);
}

// Which of a ring of stages comes next, and the parity of the phase that its barriers are in.
template <int Stages>
struct Ring {
  int stage = 0, parity = 0;

  SK_DEVICE void advance() {
    if (++stage < Stages) return;
    stage = 0;
    parity ^= 1;
  }
};

enum class Major { kInner, kOuter };

// A matrix in shared memory as wgmma finds it (PTX ISA, "Matrix descriptor"): 14 bits each of address and strides, in
// 16 bytes, and the swizzle's mode.
struct Operand {
  uint64_t descriptor;
};
constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
SK_DEVICE inline Operand operand_at(uint32_t address, int leading_bytes, int stride_bytes) {
  return {(address >> 4 & 0x3FFF) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
          static_cast<uint64_t>(stride_bytes >> 4) << 32 | kSwizzle128};
}

// What a copy's box is part of: columns, rows, heads, batches; columns lie side by side. Strides in entries.
struct CopySource {
  const void* data;
  DType dtype;
  int64_t size[4];
  int64_t stride[4];
};

inline CopySource copy_source(const TensorView& view, int64_t batches, int64_t heads, int64_t rows, int64_t columns) {
  return {view.data,
          view.dtype,
          {columns, rows, heads, batches},
          {view.stride[3], view.stride[2], view.stride[1], view.stride[0]}};
}

// "" where the copy engine can bring it.
inline std::string copy_refusal(const CopySource& source) {
  if (reinterpret_cast<uintptr_t>(source.data) % 16 != 0) return "it begins between multiples of 16 bytes";
  if (source.size[0] > 1 && source.stride[0] != 1) return "its columns do not lie side by side";
  for (int d = 1; d < 4; ++d) {
    if (source.size[d] <= 1) continue;
    if (source.stride[d] <= 0 || source.stride[d] % 8 != 0) {
      return "its strides are not multiples of 16 bytes: " + std::to_string(source.stride[d]) + " entries";
    }
  }
  return "";
}

}  // namespace seo_kernels::cuda

#if defined(__CUDACC__)
#include "cuda/sm90/device_warpgroup.h"
#else
#include "cuda/sm90/host_warpgroup.h"
#endif

namespace seo_kernels::cuda {

template <int Rows, class Memory>
SK_DEVICE inline Operand row_operand(Memory& memory, int first, int row, int k) {
  constexpr int steps = kPanel / kStep;
  const int entry = first + k / steps * (Rows * kPanel) + row * kPanel + k % steps * kStep;
  return operand_at(shared_address(memory, entry), 16, kSwizzleBytes);  // of a swizzled row, the first is not used
}

template <int Rows, class Memory>
SK_DEVICE inline Operand column_operand(Memory& memory, int first, int column, int k) {
  const int entry = first + column / kPanel * (Rows * kPanel) + kStep * k * kPanel;
  return operand_at(shared_address(memory, entry), Rows * kPanelBytes, kSwizzleBytes);
}

}  // namespace seo_kernels::cuda
