// lora_linear on tensor cores: the narrow products around the two large ones, each one read of a large matrix.
//
//   forward    H = dropout(input) lora_a^T                       lora_down
//   backward   G = grad_out lora_b, and grad_out^T H at once     lora_gradients
//              dropout(input)^T G                                lora_gradients
//
// Operands have 16 bits; of the rank there are 16, 32 or 64 columns or rows, zeros past the last. Sums are float32,
// over slots of rows or columns that are added in order: the same result in every run.
#pragma once

#include "cuda/lora.h"
#include "cuda/sm80/matmul_params.h"
#include "cuda/sm80/widths.h"

namespace seo_kernels::cuda::sm80 {

constexpr int64_t kMostRank = 64;
constexpr int padded_rank(int64_t rank) { return rank <= 16 ? 16 : rank <= 32 ? 32 : 64; }

// Calls f with the padded rank as a constant.
template <class F>
inline void with_padded_rank(int64_t rank, F f) {
  switch (padded_rank(rank)) {
    case 16:
      return f(std::integral_constant<int, 16>{});
    case 32:
      return f(std::integral_constant<int, 32>{});
    default:
      return f(std::integral_constant<int, 64>{});
  }
}

struct NarrowProductParams {
  DType dtype;
  int64_t rows, columns, rank;  // from 1 to kMostRank
  Dropout dropout;              // of the matrix
  Rows matrix;                  // (rows, columns)
};

// A factor as an operand, (padded rank, columns): rows of a multiple of 8 entries, from an address of 16 bytes on.
struct FactorOperand {
  const void* data;
  int64_t stride;
};
constexpr int64_t factor_stride(int64_t columns) { return (columns + 7) / 8 * 8; }

// parts (slots, rows, padded rank): dropout(matrix) factor^T over a slot of the columns
struct LoraDownParams : NarrowProductParams {
  FactorOperand factor;
  float* parts;
  int64_t slots;  // lora_down_slots
};
int64_t lora_down_slots(int64_t rows, int64_t columns);

// parts (slots, columns, padded rank): dropout(matrix)^T left over a slot of the rows
// sum_parts (sum_slots, rows, padded rank), where wanted: matrix factor^T over a slot of the columns; without dropout
struct LoraGradientsParams : NarrowProductParams {
  const void* left;  // an operand, (rows, padded rank)
  float* parts;
  int64_t slots;  // lora_gradient_slots
  FactorOperand factor;
  float* sum_parts = nullptr;
};
int64_t lora_gradient_slots(int64_t rows, int64_t columns, int64_t rank);
int64_t lora_sum_slots(int64_t columns, int64_t rank);

// Sums over slots, as numbers and as an operand, each times a factor.
struct LoraSumsParams {
  DType dtype;  // of the operand
  int64_t rows, rank;
  const float* parts;  // (slots, rows, part_rank)
  int64_t slots, part_rank;
  float* sums = nullptr;    // (rows, rank) or null
  void* operand = nullptr;  // (rows, padded rank) or null
  double factor = 1.0, operand_factor = 1.0;
};

// gradient (rank, columns) = factor * the sum of parts (slots, columns, padded rank)
struct LoraFactorSumParams {
  DType dtype;
  int64_t columns, rank;
  const float* parts;
  int64_t slots;
  void* gradient;
  int64_t rank_stride, column_stride;
  double factor;
};

// A factor of any strides becomes an operand (lines, stride), zeros past its rows and columns.
struct LoraOperandParams {
  MatrixView factor;
  int64_t lines, stride;
  void* operand;
};

// out = dropout(the first term) + the second term of p, whose left operands lie in rows
void lora_dropped_product(const MatmulParams& p, const Dropout& dropout, const MatrixView& out, Stream stream);

void lora_down(const LoraDownParams& p, Stream stream);
void lora_gradients(const LoraGradientsParams& p, Stream stream);
void lora_sums(const LoraSumsParams& p, Stream stream);
void lora_factor_sum(const LoraFactorSumParams& p, Stream stream);
void lora_operand(const LoraOperandParams& p, Stream stream);

// Of a block.
int64_t lora_down_shared_bytes(int64_t rank);
int64_t lora_gradients_shared_bytes(int64_t rank);

}  // namespace seo_kernels::cuda::sm80
