// The host side of warp.h: warp after warp, with the same parts in the same threads.
#pragma once

namespace seo_kernels::cuda {

template <class S>
inline uint32_t narrow_pair(float first, float second) {
  return narrow<S>(first).bits | static_cast<uint32_t>(narrow<S>(second).bits) << 16;
}

// Entry `half` of a register.
template <class S>
inline float entry_of(uint32_t word, int half) {
  return widen(S{static_cast<uint16_t>(word >> 16 * half)});
}

template <bool Turned, class Block, class Memory, class To, class From>
void read_matrices(Block& block, Memory& memory, To to, From from) {
  HostThread& now = HostThread::current();
  for (int first = 0; first < block.threads(); first += kWarp) {
    uint16_t rows[kWarp][8];
    for (int lane = 0; lane < kWarp; ++lane) {
      now.thread = first + lane;
      const auto row = memory.template pack<8>(from(now.thread));
      std::memcpy(rows[lane], &row, sizeof(row));
    }
    now.thread = HostThread::kNobody;
    for (int lane = 0; lane < kWarp; ++lane) {
      const int g = lane / 4, t = lane % 4 * 2;
      for (int m = 0; m < 4; ++m) {
        const uint16_t (*matrix)[8] = rows + 8 * m;
        const uint32_t low = Turned ? matrix[t][g] : matrix[g][t];
        const uint32_t high = Turned ? matrix[t + 1][g] : matrix[g][t + 1];
        to(first + lane).at[m] = low | high << 16;
      }
    }
  }
}

// What a warp holds of the operands of one product.
struct HostFragments {
  uint32_t left[kWarp][4], right[kWarp][2];
  float product[kWarp][4];
};

// Of a stack of its own and in bounds by construction: sanitizers would make it most of the time that tests take.
template <class S>
__attribute__((noinline, optimize("O3"), no_sanitize("address", "undefined"))) void multiply_fragments(
    HostFragments& f) {
  float left[16][16], right[16][8], product[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const int g = lane / 4, t = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      for (int n = 0; n < 4; ++n) left[g + n % 2 * 8][t + n / 2 * 8 + half] = entry_of<S>(f.left[lane][n], half);
      for (int n = 0; n < 2; ++n) right[t + n * 8 + half][g] = entry_of<S>(f.right[lane][n], half);
      for (int n = 0; n < 2; ++n) product[g + n * 8][t + half] = f.product[lane][2 * n + half];
    }
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) product[row][column] += left[row][k] * right[k][column];
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int n = 0; n < 4; ++n) f.product[lane][n] = product[lane / 4 + n / 2 * 8][lane % 4 * 2 + n % 2];
  }
}

template <class S, class Block, class To, class Left, class Right>
void multiply(Block& block, To to, Left left, Right right) {
  HostFragments f;
  for (int first = 0; first < block.threads(); first += kWarp) {
    for (int lane = 0; lane < kWarp; ++lane) {
      const int thread = first + lane;
      std::memcpy(f.left[lane], left(thread).at, sizeof(f.left[lane]));
      std::memcpy(f.right[lane], right(thread), sizeof(f.right[lane]));
      std::memcpy(f.product[lane], to(thread).at, sizeof(f.product[lane]));
    }
    multiply_fragments<S>(f);
    for (int lane = 0; lane < kWarp; ++lane) {
      std::memcpy(to(first + lane).at, f.product[lane], sizeof(f.product[lane]));
    }
  }
}

template <class Memory, class S>
void begin_copy(Memory& memory, int n, const S* from, bool there) {
  memory.begin_copy(n, there ? from : nullptr);
}

template <class Block>
void commit_copies(Block&) {
  ++HostCopies::current().committed;
}
template <int Late, class Block>
void wait_for_copies(Block&) {
  HostCopies::current().land(Late);
}

}  // namespace seo_kernels::cuda
