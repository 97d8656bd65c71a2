// What the device kernels of lora_linear are told: products with a matrix of few rows or columns, the rank, around the
// large ones.
//
// Accumulation type ("acc"): double for float64, float for all else.
#pragma once

#include "cuda/matrix_rows.h"

namespace seo_kernels::cuda {

// Sets entries of a matrix to zero; what divides by 1 - p is in the factors of the products.
struct Dropout {
  const int64_t* seed = nullptr;  // on the device; null: no dropout
  uint32_t threshold = 0;         // semantics/philox.h

  SK_DEVICE explicit operator bool() const { return seed != nullptr; }
};

// Higher ranks are for tensor cores: on the others the products below would take longer than memory does.
constexpr int64_t kMostRank = 16;

struct LowRankParams {
  DType dtype;
  int64_t rows, columns;
  int64_t rank;  // at most kMostRank; for lora_down at least 1
  Dropout dropout;
};

// projected = factor * dropout(input) down^T
struct LoraDownParams : LowRankParams {
  Rows input;       // (rows, columns)
  Rows down;        // (rank, columns)
  void* projected;  // acc (rows, rank)
  double factor;
};

// out = dropout(factor * left up) + bias
struct LoraUpParams : LowRankParams {
  const void* left;            // acc (rows, rank)
  Rows up;                     // (rank, columns)
  const void* bias = nullptr;  // acc (columns,) or null
  Rows out;                    // (rows, columns)
  double factor;
};

// gradient = factor * left^T dropout(right)
struct LoraFactorParams : LowRankParams {
  const void* left;  // acc (rows, rank)
  Rows right;        // (rows, columns)
  void* parts;       // acc (lora_factor_slots, rank, columns), any contents
  void* gradient;    // (rank, columns)
  int64_t gradient_rank_stride, gradient_column_stride;
  double factor;
};
// Slots of rows that are summed apart, and then in order: the same result in every run.
int64_t lora_factor_slots(DType dtype, int64_t rows, int64_t columns);

// out = dropout(input); out may be input
struct DropParams {
  DType dtype;
  int64_t rows, columns;
  Dropout dropout;
  Rows input, out;
};

// out = factor * sums; out may be sums
struct ScaleSumsParams {
  DType dtype;  // of out
  int64_t count;
  const void* sums;  // acc (count,)
  void* out;         // (count,)
  double factor;
};

void lora_down(const LoraDownParams& p, Stream stream);
void lora_up(const LoraUpParams& p, Stream stream);
void lora_factor(const LoraFactorParams& p, Stream stream);
void drop(const DropParams& p, Stream stream);
void scale_sums(const ScaleSumsParams& p, Stream stream);

}  // namespace seo_kernels::cuda
