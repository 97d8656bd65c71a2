// lora_linear's narrow products on tensor cores, in terms of tensors. Those of matrices with a factor are sums over
// slots, which become numbers or operands of further products.
#pragma once

#include <algorithm>

#include "cuda/sm80/lora.h"
#include "torch/cuda/matmul.h"
#include "torch/cuda/tensor_cores.h"
#include "torch/linear_arguments.h"

namespace seo_kernels {

// An operand, and its memory.
struct Operand {
  Tensor memory;
  MatrixView view;
};

class TensorCoreLora {
 public:
  // Why this tier does not serve; "" where it does, if the device has what it takes.
  static std::string refusal(const Tensor& input, const Tensor& weight, int64_t rank) {
    if (rank > cuda::sm80::kMostRank) {
      return "the rank is " + std::to_string(rank) + ", it takes at most " + std::to_string(cuda::sm80::kMostRank);
    }
    if (rank == 0 || input.numel() == 0 || weight.numel() == 0) return "there is nothing to multiply";
    return "";
  }
  static int64_t shared_bytes(int64_t rank) {
    return std::max({cuda::sm80::matmul_shared_bytes(), cuda::sm80::lora_down_shared_bytes(rank),
                     cuda::sm80::lora_gradients_shared_bytes(rank)});
  }

  TensorCoreLora(const Tensor& input, int64_t rank, cuda::Stream stream)
      : type_(input.scalar_type()),
        dtype_(dtype_of(input, "input")),
        rank_(rank),
        padded_(cuda::sm80::padded_rank(rank)),
        stream_(stream) {}

  // A factor (rank, columns) for the narrow products.
  Tensor factor(const Tensor& factor) const {
    return padded(factor, padded_, cuda::sm80::factor_stride(factor.size(1)));
  }

  // A factor (columns, rank) as the right side of a product's term whose right sides are turned, or are not.
  Operand right_side(const Tensor& factor, bool turned) const {
    const int64_t columns = factor.size(0), stride = cuda::sm80::factor_stride(columns);
    if (turned) {
      const Tensor memory = padded(transposed(factor), padded_, stride);
      return {memory, {memory.data_ptr(), dtype_, columns, padded_, 1, stride}};
    }
    const Tensor memory = padded(factor, columns, padded_);
    return {memory, {memory.data_ptr(), dtype_, columns, padded_, padded_, 1}};
  }

  // (slots, rows, padded rank): dropout(matrix) factor^T
  Tensor down(const MatrixView& matrix, const Tensor& factor, const cuda::Dropout& dropout) const {
    auto p = params<cuda::sm80::LoraDownParams>(matrix, dropout);
    p.slots = cuda::sm80::lora_down_slots(p.rows, p.columns);
    const Tensor parts = new_tensor(factor, {p.slots, p.rows, padded_}, ScalarType::Float);
    p.factor = {factor.data_ptr(), factor.size(1)};
    p.parts = static_cast<float*>(parts.data_ptr());
    cuda::sm80::lora_down(p, stream_);
    return parts;
  }

  // gradient (rank, columns) = scale * dropout(matrix)^T left. With a factor, and without dropout, out of the same read
  // (slots, rows, padded rank): matrix factor^T.
  OptionalTensor factor_gradient(const MatrixView& matrix, const Operand& left, const cuda::Dropout& dropout,
                                 double scale, const Tensor& gradient, const OptionalTensor& factor = {}) const {
    auto p = params<cuda::sm80::LoraGradientsParams>(matrix, dropout);
    p.slots = cuda::sm80::lora_gradient_slots(p.rows, p.columns, rank_);
    const Tensor parts = new_tensor(left.memory, {p.slots, p.columns, padded_}, ScalarType::Float);
    p.left = left.view.data;
    p.parts = static_cast<float*>(parts.data_ptr());
    OptionalTensor sum_parts;
    if (factor) {
      const int64_t slots = cuda::sm80::lora_sum_slots(p.columns, rank_);
      sum_parts = new_tensor(parts, {slots, p.rows, padded_}, ScalarType::Float);
      p.factor = {factor->data_ptr(), factor->size(1)};
      p.sum_parts = static_cast<float*>(sum_parts->data_ptr());
    }
    cuda::sm80::lora_gradients(p, stream_);
    cuda::sm80::lora_factor_sum({dtype_, p.columns, rank_, p.parts, p.slots, gradient.data_ptr(), gradient.stride(0),
                                 gradient.stride(1), scale},
                                stream_);
    return sum_parts;
  }

  // scale * the sum of parts (slots, rows, rank or padded rank) as a left side; where sums (rank, rows) are given, they
  // become sum_scale * it.
  Operand left_side(const Tensor& parts, double scale, const OptionalTensor& sums = {}, double sum_scale = 1.0) const {
    cuda::sm80::LoraSumsParams p;
    p.dtype = dtype_;
    p.slots = parts.size(0);
    p.rows = parts.size(1);
    p.part_rank = parts.size(2);
    p.rank = rank_;
    const Tensor memory = new_tensor(parts, {p.rows, padded_}, type_);
    p.parts = static_cast<const float*>(parts.data_ptr());
    p.operand = memory.data_ptr();
    p.operand_factor = scale;
    if (sums) p.sums = static_cast<float*>(sums->data_ptr());
    p.factor = sum_scale;
    cuda::sm80::lora_sums(p, stream_);
    return {memory, {memory.data_ptr(), dtype_, p.rows, padded_, padded_, 1}};
  }

 private:
  template <class Params>
  Params params(const MatrixView& matrix, const cuda::Dropout& dropout) const {
    Params p;
    p.dtype = dtype_;
    p.rows = matrix.rows;
    p.columns = matrix.columns;
    p.rank = rank_;
    p.dropout = dropout;
    p.matrix = device_rows(matrix);
    return p;
  }

  // The matrix as (lines, stride), zeros past its ends: itself, where it is that already.
  Tensor padded(const Tensor& matrix, int64_t lines, int64_t stride) const {
    const bool same = matrix.size(0) == lines && matrix.size(1) == stride && matrix.is_contiguous();
    if (same && reinterpret_cast<uintptr_t>(matrix.data_ptr()) % 16 == 0) return matrix;
    const MatrixView view{matrix.data_ptr(), dtype_,           matrix.size(0),
                          matrix.size(1),    matrix.stride(0), matrix.stride(1)};
    const Tensor out = new_tensor(matrix, {lines, stride}, type_);
    cuda::sm80::lora_operand({view, lines, stride, out.data_ptr()}, stream_);
    return out;
  }

  ScalarType type_;
  DType dtype_;
  int64_t rank_, padded_;
  cuda::Stream stream_;
};

}  // namespace seo_kernels
