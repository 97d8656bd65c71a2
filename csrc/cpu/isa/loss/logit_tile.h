// Logits of a block of tokens by a block of classes.
#pragma once

#include "cpu/isa/linear/matmul.h"
#include "cpu/linear_cross_entropy_params.h"

namespace seo_kernels::cpu {
namespace {

// The classes of a block, and their rows of the weight.
inline Range classes_of(const LinearCrossEntropyParams& p, int64_t block) {
  return {block * p.class_block, std::min((block + 1) * p.class_block, p.classes())};
}

inline Range tokens_of(const LinearCrossEntropyParams& p, int64_t block) {
  return {block * p.token_block, std::min((block + 1) * p.token_block, p.tokens())};
}

inline MatrixView rows_of(const MatrixView& matrix, Range rows) {
  const int64_t size = matrix.dtype == DType::kFloat64 ? 8 : matrix.dtype == DType::kFloat32 ? 4 : 2;
  MatrixView part = matrix;
  part.data = static_cast<char*>(matrix.data) + rows.begin * matrix.row_stride * size;
  part.rows = rows.size();
  return part;
}

template <class E>
class LogitTile {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int64_t W = kLanes<Acc>;

  // memory: panel_size operands for the packed classes, tile_size accs for the logits
  LogitTile(const LinearCrossEntropyParams& p, Operand* packed, Acc* logits)
      : p_(p),
        packed_(packed),
        logits_(logits),
        left_(p.hidden, p.token_block, std::min(kInnerOperands, operand_count<E>(p.dim()))) {}

  static int64_t panel_size(const LinearCrossEntropyParams& p) { return Panels<E>::size(p.dim(), p.class_block); }
  static int64_t width(const LinearCrossEntropyParams& p) { return round_up(p.class_block, W); }
  static int64_t tile_size(const LinearCrossEntropyParams& p) { return p.token_block * width(p); }

  // Packs these classes, unless their memory holds them already.
  void use(Range classes, bool pack) {
    classes_ = classes;
    panels_ = Panels<E>(p_.dim(), classes.size(), packed_);
    if (pack) panels_.pack(rows_of(p_.weight, classes).transposed(), {0, panels_.count()});
  }

  // (tokens, ld()): what follows the last class of a row means nothing.
  Acc* compute(Range tokens) {
    const int64_t operands = panels_.operands();
    for (int64_t begin = 0; begin < operands; begin += kInnerOperands) {
      const Range pass{begin, std::min(begin + kInnerOperands, operands)};
      const Operand* a = left_.load(tokens, pass);
      for (int64_t panel = 0; panel < panels_.count(); ++panel) {
        gemm<E, Lay::kRows>(tokens.size(), panels_.vectors(panel), pass.size(), a, left_.ld(),
                            panels_.at(panel) + begin * panels_.ld(), panels_.ld(),
                            logits_ + panel * Panels<E>::kColumns, ld(), begin > 0);
      }
    }
    if (operands == 0) std::fill(logits_, logits_ + tokens.size() * ld(), Acc(0));
    if (p_.bias) add_bias(tokens.size());
    return logits_;
  }

  int64_t ld() const { return width(p_); }
  Range classes() const { return classes_; }

 private:
  void add_bias(int64_t rows) const {
    const Acc* bias = static_cast<const Acc*>(p_.bias) + classes_.begin;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t n = 0; n < classes_.size(); ++n) logits_[row * ld() + n] += bias[n];
    }
  }

  const LinearCrossEntropyParams& p_;
  Operand* packed_;
  Acc* logits_;
  LeftRows<E> left_;
  Panels<E> panels_;
  Range classes_;
};

}  // namespace
}  // namespace seo_kernels::cpu
