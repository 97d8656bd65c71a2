// The one symbol that a plugin exports.
#include "cpu/isa/entry.h"

namespace seo_kernels::cpu {
namespace {

#if defined(SK_ISA_AMX_BF16)
constexpr const char* kCapability = "amx_bf16";
#elif defined(SK_ISA_AVX512_BF16)
constexpr const char* kCapability = "avx512_bf16";
#elif defined(SK_ISA_AVX512)
constexpr const char* kCapability = "avx512";
#elif defined(SK_ISA_AVX2)
constexpr const char* kCapability = "avx2";
#else
constexpr const char* kCapability = "portable";
#endif

}  // namespace
}  // namespace seo_kernels::cpu

extern "C" __attribute__((visibility("default"))) const seo_kernels::cpu::Kernels* seo_kernels_cpu_plugin() {
  using namespace seo_kernels::cpu;
  static const Kernels kernels{
      kCapability,
      fma_peak,
      {attention_forward, attention_backward, attention_combine, attention_mask_gradient},
      {linear_panel_bytes, linear_panel_count, linear_pack, linear_matmul, linear_few_rows, linear_lora_forward,
       linear_lora_backward, linear_gradient_rows},
      {bias_act_forward, bias_act_backward, gated_act_forward, gated_act_backward},
      {class_loss_forward, class_loss_backward, soft_loss_forward, soft_loss_backward, huber_forward, huber_backward},
      {linear_cross_entropy_forward, linear_cross_entropy_combine, linear_cross_entropy_packed_bytes,
       linear_cross_entropy_step_bytes, linear_cross_entropy_sum_width, linear_cross_entropy_pack_hidden,
       linear_cross_entropy_backward, linear_cross_entropy_store_hidden},
      {dropout}};
  return &kernels;
}
