// seo_kernels._C: what was built, and the host side of csrc/semantics for the tests.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "semantics/activation.h"
#include "semantics/dropout.h"
#include "semantics/pattern.h"
#include "semantics/philox.h"
#include "semantics/relative.h"

namespace {

namespace py = pybind11;
using namespace seo_kernels;

using Step = std::tuple<std::string, std::vector<int64_t>>;  // name and operands, as in the op's pattern string

PatternOp pattern_op(const std::string& name) {
  const std::array names = {"dense", "causal", "local", "strided", "dilated", "global", "blocks", "and", "or"};
  for (size_t op = 0; op < names.size(); ++op) {
    if (name == names[op]) return static_cast<PatternOp>(op);
  }
  throw std::invalid_argument("step is '" + name + "', expected a step of a pattern program");
}

// The layout's bytes must outlive the program.
PatternProgram pattern_program(const std::vector<Step>& steps, const std::string& layout) {
  if (steps.empty() || steps.size() > kMaxPatternSteps) {
    throw std::invalid_argument("steps has " + std::to_string(steps.size()) + " entries, expected 1 to " +
                                std::to_string(kMaxPatternSteps));
  }
  PatternProgram program;
  program.layout = reinterpret_cast<const uint8_t*>(layout.data());
  for (const auto& [name, operands] : steps) {
    std::array<int64_t, 5> padded = {};
    if (operands.size() > padded.size()) throw std::invalid_argument("a step has more than 5 operands");
    for (size_t i = 0; i < operands.size(); ++i) padded[i] = operands[i];
    program.steps[program.count++] = {pattern_op(name), padded[0], padded[1], padded[2], padded[3], padded[4]};
  }
  return program;
}

// Of each x: value, first and second derivative.
template <class T>
std::vector<std::array<T, 3>> activation_jets(const std::string& name, const std::vector<T>& inputs, T negative_slope) {
  for (int n = 0; n < kActivations; ++n) {
    if (name != kActivationNames[n]) continue;
    return with_activation(static_cast<Activation>(n), [&](auto which) {
      std::vector<std::array<T, 3>> jets;
      for (const T x : inputs) {
        const Jet<T> j = jet<decltype(which)::value, ScalarArithmetic<T>>(x, negative_slope);
        jets.push_back({j.value, j.first, j.second});
      }
      return jets;
    });
  }
  throw std::invalid_argument("activation is '" + name + "', expected the name of one");
}

py::dict build_info() {
  py::dict info;
  info["version"] = SEO_KERNELS_VERSION;
  info["compiler"] = SEO_KERNELS_COMPILER;
  info["instruction_sets"] = py::str(SEO_KERNELS_ISAS).attr("split")(",");
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Build info of seo_kernels, and the host side of its semantics for tests.";
  module.def("build_info", &build_info, "version, compiler and instruction_sets of this build");
  module.def(
      "pattern_bits",
      [](const std::vector<Step>& steps, const py::bytes& layout, int64_t head, int64_t query, int64_t key_begin,
         int64_t query_offset) {
        const std::string bytes = layout;
        return pattern_bits(pattern_program(steps, bytes), head, query, key_begin, query_offset);
      },
      "Bit n: the query sees key key_begin + n.");
  module.def(
      "pattern_cover",
      [](const std::vector<Step>& steps, const py::bytes& layout, int64_t head, std::array<int64_t, 2> queries,
         std::array<int64_t, 2> keys, int64_t query_offset) {
        const std::string bytes = layout;
        return static_cast<int>(
            pattern_cover(pattern_program(steps, bytes), head, queries[0], queries[1], keys[0], keys[1], query_offset));
      },
      "Whether a rectangle of queries [begin, end) and keys [begin, end) is 0: empty, 1: partly visible, 2: full.");
  module.def(
      "pattern_reach",
      [](const std::vector<Step>& steps, const py::bytes& layout) {
        const std::string bytes = layout;
        return pattern_reach(pattern_program(steps, bytes));
      },
      "No visible pair of positions is further apart than this.");
  module.def("relative_index", &relative_index, "The row of a table of 2R+1 entries for (distance, R).");
  module.def(
      "philox",
      [](std::array<uint32_t, 4> counter, uint32_t key0, uint32_t key1) {
        const PhiloxWords words = philox({{counter[0], counter[1], counter[2], counter[3]}}, key0, key1);
        return std::array{words.word[0], words.word[1], words.word[2], words.word[3]};
      },
      "Philox4x32-10 of four counter words and two key words.");
  module.def("activation_float32", &activation_jets<float>,
             "(value, first, second derivative) of each x, computed in single precision.");
  module.def("activation_float64", &activation_jets<double>,
             "(value, first, second derivative) of each x, computed in double precision.");
  module.def("attention_dropout_word", &attention_dropout_word, "The random word of (seed, batch, head, query, key).");
  module.def("keeps_element", &keeps_element, "Whether dropout keeps the element: (seed, index, threshold).");
  module.def("dropout_threshold", &dropout_threshold, "A weight is kept iff its word is not below this.");
}
