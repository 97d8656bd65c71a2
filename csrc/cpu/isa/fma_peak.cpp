// The machine's own ceiling: multiply-adds per second of one thread on registers alone.
#include <chrono>

#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {
namespace {

template <class E>
double measure(int64_t milliseconds) {
  using Acc = typename E::Acc;
  constexpr int chains = 12;  // enough to cover the latency, few enough for 16 registers
  constexpr int64_t batch = 20000;
  Vec<Acc> sum[chains] = {};
  typename E::Operand a = 0;
  Vec<typename E::Operand> b{};
  asm volatile("" : "+m"(a), "+m"(b));
  int64_t rounds = 0;
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0;
  do {
    for (int64_t n = 0; n < batch; ++n) {
#pragma GCC unroll 12
      for (int c = 0; c < chains; ++c) sum[c] = E::multiply_add(a, b, sum[c]);
#pragma GCC unroll 12
#if defined(__AVX512F__)
      for (int c = 0; c < chains; ++c) asm volatile("" : "+v"(sum[c]));
#elif defined(__x86_64__)
      for (int c = 0; c < chains; ++c) asm volatile("" : "+x"(sum[c]));
#else
      for (int c = 0; c < chains; ++c) asm volatile("" : "+w"(sum[c]));
#endif
    }
    rounds += batch;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  } while (seconds * 1e3 < static_cast<double>(milliseconds));
  const double flops = 2.0 * chains * kLanes<Acc> * E::kPack * static_cast<double>(rounds);
  return flops / seconds * 1e-9;
}

#if defined(SK_ISA_AMX_BF16)
double measure_tiles(int64_t milliseconds) {
  constexpr int64_t batch = 5000;
  alignas(64) uint32_t values[kTileRows * kTileOperands];
  for (uint32_t n = 0; n < kTileRows * kTileOperands; ++n) values[n] = 0x3F803F80u + n * 0x00050003u;  // near one
  const TileSession tiles;
  TileSession::use(kTileRows, kTileRows, kTileOperands);
  tile_fence();
  _tile_loadd(4, values, 64);
  _tile_loadd(6, values, 64);
  _tile_loadd(5, values, 64);
  _tile_loadd(7, values, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  int64_t rounds = 0;
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0;
  do {
    for (int64_t n = 0; n < batch; ++n) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    rounds += batch;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  } while (seconds * 1e3 < static_cast<double>(milliseconds));
  constexpr double flops = 4.0 * 2.0 * kTileRows * 16 * kTileOperands * 2;
  return flops * static_cast<double>(rounds) / seconds * 1e-9;
}
#endif

}  // namespace

double fma_peak(DType dtype, int64_t milliseconds) {
  if (dtype == DType::kFloat64) return measure<Float64Engine>(milliseconds);
  if (dtype == DType::kFloat32) return measure<Float32Engine>(milliseconds);
#if defined(SK_ISA_AMX_BF16)
  if (dtype == DType::kBFloat16) return measure_tiles(milliseconds);
#elif defined(SK_ISA_AVX512_BF16)
  if (dtype == DType::kBFloat16) return measure<BFloat16Engine>(milliseconds);
#endif
  return 0.0;
}

}  // namespace seo_kernels::cpu
