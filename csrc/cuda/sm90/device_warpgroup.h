// The device side of warpgroup.h: wgmma, copies and registers by CuTe.
#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cutlass/arch/reg_reconfig.h>

#include <cute/arch/copy_sm90_desc.hpp>
#include <cute/arch/copy_sm90_tma.hpp>
#include <cute/arch/mma_sm90.hpp>
#include <utility>

namespace seo_kernels::cuda {

// An mbarrier (PTX ISA, "Parallel Synchronization and Communication Instructions").
struct Barrier {
  uint64_t word;
};

template <class Memory>
SK_DEVICE inline uint32_t shared_address(Memory& memory, int entry) {
  return cute::cast_smem_ptr_to_uint(memory.address(entry));
}

SK_DEVICE inline void init_barrier(Barrier& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(cute::cast_smem_ptr_to_uint(&barrier.word)),
               "r"(arrivals)
               : "memory");
}

SK_DEVICE inline void wait_alone(Barrier& barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n"
      "@!complete bra again;\n"
      "}" ::"r"(cute::cast_smem_ptr_to_uint(&barrier.word)),
      "r"(parity)
      : "memory");
}

SK_DEVICE inline void expect_bytes(Barrier& barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(cute::cast_smem_ptr_to_uint(&barrier.word)),
      "r"(bytes)
      : "memory");
}

using TensorMap = CUtensorMap;

// Boxes of 64 columns and `box_rows` rows, of at most 256.
inline TensorMap map_of(const CopySource& source, int box_rows, const char* op) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status;
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status), op);
#else
  check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &status), op);
#endif
  if (!found) throw std::runtime_error(std::string(op) + ": CUDA: the driver has no cuTensorMapEncodeTiled");
  cuuint64_t sizes[4], strides[3];
  for (int d = 0; d < 4; ++d) sizes[d] = static_cast<cuuint64_t>(source.size[d]);
  // of one row there is no stride, but the driver wants one
  for (int d = 1; d < 4; ++d) strides[d - 1] = source.size[d] > 1 ? 2 * static_cast<cuuint64_t>(source.stride[d]) : 16;
  const cuuint32_t box[4] = {kPanel, static_cast<cuuint32_t>(box_rows), 1, 1}, steps[4] = {1, 1, 1, 1};
  const auto type =
      source.dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  TensorMap map;
  const CUresult result = reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found)(
      &map, type, 4, const_cast<void*>(source.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error(std::string(op) + ": CUDA: cuTensorMapEncodeTiled says " + std::to_string(result));
  }
  return map;
}

template <class Memory>
SK_DEVICE inline void load_box(const TensorMap& map, Barrier& barrier, Memory& memory, int n, int column, int row,
                               int head, int batch) {
  cute::SM90_TMA_LOAD_4D::copy(&map, &barrier.word, static_cast<uint64_t>(cute::TMA::CacheHintSm90::EVICT_NORMAL),
                               memory.address(n), column, row, head, batch);
}

// The threads of one warpgroup of a block, of which warp-wide and group-wide functions are called together.
template <class Shared>
class Warpgroup : public Block<Shared> {
 public:
  SK_DEVICE Warpgroup(Shared& shared, int group) : Block<Shared>(shared), group_(group) {}

  SK_DEVICE int group() const { return group_; }
  SK_DEVICE static int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }

  template <class F>
  SK_DEVICE void for_threads(F f) {
    f(thread());
  }
  template <class F>
  SK_DEVICE void one_thread(F f) {
    if (thread() == 0) f();
  }

  // Barrier 0 is the block's.
  SK_DEVICE void sync() { asm volatile("bar.sync %0, %1;" ::"r"(group_ + 1), "n"(kGroupThreads) : "memory"); }
  SK_DEVICE void show_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
  SK_DEVICE void wait(Barrier& barrier, int parity) { wait_alone(barrier, parity); }
  // A warp's products are done when it has waited for them, its loads when its threads have met.
  SK_DEVICE void arrive(Barrier& barrier) {
    __syncwarp();
    if (thread() % kWarp == 0) {
      asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(cute::cast_smem_ptr_to_uint(&barrier.word))
                   : "memory");
    }
  }

 private:
  int group_;
};

template <int Consumers, int Blocks = 1, class Shared, class Producer, class Consumer>
SK_DEVICE inline void run_roles(Block<Shared>& block, Producer producer, Consumer consumer) {
  constexpr int entry = entry_registers(Consumers, Blocks), more = consumer_registers(Consumers, Blocks);
  // barriers, and all else that was written, are there for the copy engine too
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
  block.sync();
  const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  Warpgroup<Shared> warpgroup(block.shared(), group);
  if (group == Consumers) {
    if constexpr (more > entry) cutlass::arch::warpgroup_reg_dealloc<producer_registers(Consumers)>();
    producer(warpgroup);
  } else {
    if constexpr (more > entry) cutlass::arch::warpgroup_reg_alloc<more>();
    consumer(warpgroup);
  }
}

// What lies in registers is there, as far as the compiler sees: it moves nothing across.
template <int M, int N>
SK_DEVICE inline void pin_registers(PerThread<Tile<M, N>>& sums) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) cute::warpgroup_fence_operand(sums[0].at[m][n].at[e]);
    }
  }
}

template <int K>
SK_DEVICE inline void settle(PerThread<Fragment> (&left)[K]) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int n = 0; n < 4; ++n) asm volatile("" : "+r"(left[k][0].at[n])::"memory");
  }
}

template <class Group, class... Sums>
SK_DEVICE inline void begin_products(Group&, Sums&... sums) {
  (pin_registers(sums), ...);
  cute::warpgroup_arrive();
}
template <class Group>
SK_DEVICE inline void commit_products(Group&) {
  cute::warpgroup_commit_batch();
}
template <int Late, class Group, class... Sums>
SK_DEVICE inline void wait_for_products(Group&, Sums&... sums) {
  cute::warpgroup_wait<Late>();
  (pin_registers(sums), ...);
}

constexpr cute::SM90::GMMA::Major cute_major(Major major) {
  return major == Major::kInner ? cute::SM90::GMMA::Major::K : cute::SM90::GMMA::Major::MN;
}
template <class S>
using CuteType = std::conditional_t<std::is_same_v<S, BFloat16>, cute::bfloat16_t, cute::half_t>;
template <int N>
using ProductShape = cute::Shape<cute::Int<kGroupRows>, cute::Int<N>, cute::Int<kStep>>;
constexpr bool is_product_width(int n) {
  return n == 8 || n == 16 || n == 32 || n == 64 || n == 96 || n == 128 || n == 192 || n == 256;
}
SK_DEVICE inline cute::SM90::GMMA::ScaleOut scale_out(bool add) {
  return add ? cute::SM90::GMMA::ScaleOut::One : cute::SM90::GMMA::ScaleOut::Zero;
}

template <class S, Major MajorLeft, Major MajorRight, class Group, int M, int N>
SK_DEVICE inline void multiply_operands(Group&, PerThread<Tile<M, N>>& sums, int m, Operand left, Operand right,
                                        bool add) {
  static_assert(is_product_width(8 * N));
  using Mma = decltype(cute::SM90::GMMA::ss_op_selector<CuteType<S>, CuteType<S>, float, ProductShape<8 * N>,
                                                        cute_major(MajorLeft), cute_major(MajorRight)>());
  Product(&to)[N] = sums[0].at[m];
  [&]<size_t... E>(std::index_sequence<E...>) {
    Mma::fma(left.descriptor, right.descriptor, to[E / 4].at[E % 4]..., scale_out(add));
  }(std::make_index_sequence<4 * N>());
}

template <class S, Major MajorRight, class Group, int M, int N>
SK_DEVICE inline void multiply_operands(Group&, PerThread<Tile<M, N>>& sums, int m, PerThread<Fragment>& left,
                                        Operand right, bool add) {
  static_assert(is_product_width(8 * N));
  using Mma = decltype(cute::SM90::GMMA::rs_op_selector<CuteType<S>, CuteType<S>, float, ProductShape<8 * N>,
                                                        cute::SM90::GMMA::Major::K, cute_major(MajorRight)>());
  const uint32_t (&a)[4] = left[0].at;
  Product(&to)[N] = sums[0].at[m];
  [&]<size_t... E>(std::index_sequence<E...>) {
    Mma::fma(a[0], a[1], a[2], a[3], right.descriptor, to[E / 4].at[E % 4]..., scale_out(add));
  }(std::make_index_sequence<4 * N>());
}

}  // namespace seo_kernels::cuda
