// The functions that one instruction set's plugin offers, and the choice of engine for a dtype.
#pragma once

#include "cpu/isa/gemm.h"
#include "cpu/kernel_table.h"

namespace seo_kernels::cpu {

void attention_forward(const AttentionForwardParams& p, UnitRange units);
void attention_backward(const AttentionBackwardParams& p, UnitRange units, int64_t slot);
void attention_combine(const AttentionBackwardParams& p, const UnitRange* slots, int64_t slot_count, int64_t head_begin,
                       int64_t head_end);
void attention_mask_gradient(const AttentionMaskGradientParams& p, int64_t begin, int64_t end);
int64_t linear_panel_bytes(DType dtype, int64_t inner, int64_t columns);
int64_t linear_panel_count(DType dtype, int64_t columns);
void linear_pack(DType dtype, const PackedMatrix& matrix, Range panels);
void linear_matmul(const MatmulParams& p, const MatmulShare& share);
void linear_few_rows(const MatmulParams& p, Range columns);
void linear_lora_forward(const LoraForwardParams& p, const MatmulShare& share);
void linear_lora_backward(const LoraBackwardParams& p, const MatmulShare& share);
void linear_gradient_rows(const GradientRowsParams& p, Range rows, int64_t slot);
void bias_act_forward(const BiasActForwardParams& p, Range rows);
void bias_act_backward(const BiasActBackwardParams& p, Range rows, int64_t slot);
void gated_act_forward(const GatedActForwardParams& p, Range rows);
void gated_act_backward(const GatedActBackwardParams& p, Range rows);
void class_loss_forward(const ClassLossForwardParams& p, int64_t begin, int64_t end);
void class_loss_backward(const ClassLossBackwardParams& p, int64_t begin, int64_t end);
void soft_loss_forward(const SoftLossForwardParams& p, int64_t begin, int64_t end);
void soft_loss_backward(const SoftLossBackwardParams& p, int64_t begin, int64_t end);
void huber_forward(const HuberForwardParams& p, int64_t begin, int64_t end);
void huber_backward(const HuberBackwardParams& p, int64_t begin, int64_t end);
void linear_cross_entropy_forward(const LinearCrossEntropyForwardParams& p, int64_t part, Range class_blocks,
                                  Range token_blocks);
void linear_cross_entropy_combine(const LinearCrossEntropyForwardParams& p, Range tokens);
int64_t linear_cross_entropy_packed_bytes(const LinearCrossEntropyBackwardParams& p);
int64_t linear_cross_entropy_step_bytes(const LinearCrossEntropyBackwardParams& p);
int64_t linear_cross_entropy_sum_width(DType dtype, int64_t dim);
void linear_cross_entropy_pack_hidden(const LinearCrossEntropyBackwardParams& p, Range token_blocks);
void linear_cross_entropy_backward(const LinearCrossEntropyBackwardParams& p, const LinearCrossEntropyStep& step);
void linear_cross_entropy_store_hidden(const LinearCrossEntropyBackwardParams& p, const MatrixView& to,
                                       const int64_t* rows, Range tokens);
void dropout(const DropoutParams& p, Range blocks);
double fma_peak(DType dtype, int64_t milliseconds);

namespace {

// Products run in double for float64, on bfloat16 pairs where there is an instruction for them, in float otherwise.
template <class F>
void with_engine(DType dtype, F f) {
  if (dtype == DType::kFloat64) return f(Float64Engine{});
#if defined(SK_ISA_AVX512_BF16)
  if (dtype == DType::kBFloat16) {
    [[maybe_unused]] const TileSession tiles;
    return f(BFloat16Engine{});
  }
#endif
  f(Float32Engine{});
}

}  // namespace
}  // namespace seo_kernels::cpu
