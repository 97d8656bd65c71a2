// The schemas of all ops, for every device. No keyword-only arguments: TorchScript cannot pass them.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(seo_kernels, m) {
  m.def(
      "attention_forward(Tensor query, Tensor key, Tensor value, str pattern, Tensor? layout, Tensor? relative_key, "
      "Tensor? relative_value, Tensor? relative_bias, Tensor? slopes, Tensor? mask, Tensor? key_lengths, "
      "Tensor? query_segments, Tensor? key_segments, Tensor? sinks, Tensor? seed, float dropout_p, float scale, "
      "float softcap, SymInt query_offset) -> (Tensor, Tensor)");
  m.def(
      "attention_backward(Tensor? grad_out, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor out, "
      "Tensor lse, str pattern, Tensor? layout, Tensor? relative_key, Tensor? relative_value, Tensor? relative_bias, "
      "Tensor? slopes, Tensor? mask, Tensor? key_lengths, Tensor? query_segments, Tensor? key_segments, "
      "Tensor? sinks, Tensor? seed, float dropout_p, float scale, float softcap, SymInt query_offset, "
      "bool[9] wanted) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // losses
  m.def(
      "cross_entropy_forward(Tensor input, Tensor target, Tensor? weight, int ignore_index, float label_smoothing) "
      "-> (Tensor, Tensor)");
  m.def(
      "cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor target, Tensor? weight, int ignore_index, "
      "float label_smoothing, Tensor lse, bool[1] wanted) -> Tensor");
  m.def(
      "soft_cross_entropy_forward(Tensor input, Tensor target, Tensor? weight, float label_smoothing) "
      "-> (Tensor, Tensor)");
  m.def(
      "soft_cross_entropy_backward(Tensor grad_losses, Tensor input, Tensor target, Tensor? weight, "
      "float label_smoothing, Tensor lse, bool[2] wanted) -> (Tensor, Tensor)");
  m.def(
      "focal_loss_forward(Tensor input, Tensor target, Tensor? alpha, float gamma, int ignore_index) "
      "-> (Tensor, Tensor)");
  m.def(
      "focal_loss_backward(Tensor grad_losses, Tensor input, Tensor target, Tensor? alpha, float gamma, "
      "int ignore_index, Tensor lse, bool[1] wanted) -> Tensor");
  m.def("huber_loss_forward(Tensor input, Tensor target, Tensor? weight, float delta, bool sums) -> Tensor");
  m.def(
      "huber_loss_backward(Tensor grad_losses, Tensor input, Tensor target, Tensor? weight, float delta, bool sums, "
      "bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  // linear and lora_linear
  m.def("linear_forward(Tensor input, Tensor weight, Tensor? bias, str activation, bool keep) -> (Tensor, Tensor)");
  m.def(
      "linear_backward(Tensor grad_out, Tensor input, Tensor weight, Tensor? bias, Tensor? preactivation, "
      "str activation, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "lora_linear_forward(Tensor input, Tensor weight, Tensor? bias, Tensor lora_a, Tensor lora_b, Tensor? seed, "
      "float scaling, float dropout_p) -> (Tensor, Tensor)");
  m.def(
      "lora_linear_backward(Tensor grad_out, Tensor input, Tensor weight, Tensor? bias, Tensor lora_a, "
      "Tensor lora_b, Tensor projected, Tensor? seed, float scaling, float dropout_p, bool[5] wanted) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("bias_act_forward(Tensor input, Tensor? bias, str activation, float negative_slope) -> Tensor");
  m.def(
      "bias_act_backward(Tensor grad_out, Tensor input, Tensor? bias, str activation, float negative_slope, "
      "bool[2] wanted) -> (Tensor, Tensor)");
  m.def("gated_act_forward(Tensor input, Tensor? up, str activation) -> Tensor");
  m.def(
      "gated_act_backward(Tensor grad_out, Tensor input, Tensor? up, str activation, bool[2] wanted) "
      "-> (Tensor, Tensor)");
  m.def("dropout(Tensor input, Tensor seed, float p) -> Tensor");  // its own gradient, of grad_out
  m.def(
      "linear_cross_entropy_forward(Tensor hidden, Tensor weight, Tensor target, Tensor? bias, int ignore_index, "
      "float label_smoothing) -> (Tensor, Tensor)");
  m.def(
      "linear_cross_entropy_backward(Tensor grad_losses, Tensor hidden, Tensor weight, Tensor target, Tensor? bias, "
      "int ignore_index, float label_smoothing, Tensor lse, bool[3] wanted) -> (Tensor, Tensor, Tensor)");
  m.def(
      "attention_plan(str pattern, Tensor? layout, int heads, int query_length, int key_length, int query_offset, "
      "int tile_rows=0) -> Tensor");
  // which kernels serve a call: their tier, the queries of their tiles, and why; for the device of the query
  m.def(
      "attention_tier(Tensor query, Tensor key, Tensor value, str pattern, Tensor? layout, Tensor? relative_key, "
      "Tensor? relative_value, Tensor? relative_bias, Tensor? slopes, Tensor? mask, Tensor? key_lengths, "
      "Tensor? query_segments, Tensor? key_segments, Tensor? sinks, Tensor? seed, float dropout_p, float scale, "
      "float softcap, SymInt query_offset) -> (str, int, str)");
  m.def("fma_peak(str kind, int milliseconds) -> float");
  m.def("keep_freed_results(int bytes) -> int");
  m.def("cpu_capability() -> str");
}
