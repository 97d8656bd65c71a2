// Gradients of linear_cross_entropy. The logits of a tile are computed once more, and become their own gradient
//   G_tc = g_t (p_tc - (1 - s) [c = y_t] - s / C),     s: label smoothing,
// which goes into   grad_hidden += G W,   grad_weight += G^T H   and   grad_bias += sum_t G   at once.
#include "cpu/isa/entry.h"
#include "cpu/isa/loss/log_sum_exp.h"
#include "cpu/isa/loss/logit_tile.h"

namespace seo_kernels::cpu {
namespace {

// Parts of one piece of memory, each on a cache line.
class Parts {
 public:
  explicit Parts(void* memory) : memory_(reinterpret_cast<uintptr_t>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(memory_ + static_cast<uintptr_t>(bytes_));
    bytes_ += round_up(count * static_cast<int64_t>(sizeof(T)), kLine);
    return part;
  }

  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kLine = 64;

  uintptr_t memory_;
  int64_t bytes_ = 0;
};

template <class E>
int64_t packed_size(const LinearCrossEntropyParams& p) {
  return Panels<E>::size(p.token_block, p.dim());
}

// A token block of hidden as the right-hand side of G^T H.
template <class E>
Panels<E> packed_tokens(const LinearCrossEntropyBackwardParams& p, int64_t block) {
  auto* memory = static_cast<typename E::Operand*>(p.packed_hidden) + block * packed_size<E>(p);
  return Panels<E>(tokens_of(p, block).size(), p.dim(), memory);
}

template <class E>
class Backward {
 public:
  using Acc = typename E::Acc;
  using Operand = typename E::Operand;
  static constexpr int64_t W = kLanes<Acc>;

  Backward(const LinearCrossEntropyBackwardParams& p, void* memory)
      : p_(p),
        parts_(memory),
        dim_width_(round_up(p.dim(), W)),
        by_class_(parts_.take<Operand>(LogitTile<E>::panel_size(p))),
        tile_(parts_.take<Acc>(LogitTile<E>::tile_size(p))),
        by_dim_(parts_.take<Operand>(p.sum_hidden ? Panels<E>::size(p.class_block, p.dim()) : 0)),
        grad_weight_(parts_.take<Acc>(p.grad_weight ? p.class_block * dim_width_ : 0)),
        grad_bias_(parts_.take<Acc>(p.grad_bias ? LogitTile<E>::width(p) : 0)),
        rows_(parts_.take<Operand>(E::kPack > 1 && p.sum_hidden ? rows_size() : 0)),
        columns_(parts_.take<Operand>(E::kPack > 1 && p.grad_weight ? columns_size() : 0)) {}

  int64_t bytes() const { return parts_.bytes(); }

  void step(const LinearCrossEntropyStep& step) {
    const Range classes = classes_of(p_, step.class_block);
    LogitTile<E> logits(p_, by_class_, tile_);
    logits.use(classes, step.first);
    const Panels<E> weight(classes.size(), p_.dim(), by_dim_);
    if (step.first) start(classes, weight);
    for (int64_t block = step.token_blocks.begin; block < step.token_blocks.end; ++block) {
      const Range tokens = tokens_of(p_, block);
      logits.compute(tokens);
      differentiate(tokens, classes);
      if (p_.sum_hidden) add_hidden(tokens, weight, step.accumulate);
      if (p_.grad_weight) add_weight(tokens, classes, packed_tokens<E>(p_, block));
    }
    if (step.last) finish(classes);
  }

 private:
  int64_t ld() const { return LogitTile<E>::width(p_); }
  // Operands along the classes for all tokens, and along the tokens for all classes.
  int64_t rows_ld() const { return round_up(operand_count<E>(p_.class_block), W); }
  int64_t rows_size() const { return round_up(p_.token_block, W) * rows_ld(); }
  int64_t columns_ld() const { return round_up(operand_count<E>(p_.token_block), W); }
  int64_t columns_size() const { return round_up(p_.class_block, W) * columns_ld(); }

  void start(Range classes, const Panels<E>& weight) const {
    if (p_.sum_hidden) weight.pack(rows_of(p_.weight, classes), {0, weight.count()});
    if (p_.grad_weight) std::fill(grad_weight_, grad_weight_ + p_.class_block * dim_width_, Acc(0));
    if (p_.grad_bias) std::fill(grad_bias_, grad_bias_ + ld(), Acc(0));
  }

  // Logits to their gradients, in place; zeros after the last class.
  void differentiate(Range tokens, Range classes) const {
    constexpr bool kReduced = E::kPack > 1;  // rounded to bfloat16 next
    const Acc* grads = static_cast<const Acc*>(p_.grad_losses);
    const Acc smoothing = static_cast<Acc>(p_.label_smoothing);
    const int64_t count = classes.size(), whole = round_up(count, W);
    Acc* x = tile_;
    for (int64_t token = tokens.begin; token < tokens.end; ++token, x += ld()) {
      const Normaliser<Acc> lse = normaliser_at<Acc>(p_.lse, token);
      const Vec<Acc> grad = splat(grads[token]);
      const Vec<Acc> each = splat(grads[token] * smoothing / static_cast<Acc>(p_.classes()));
      for (int64_t n = 0; n < whole; n += W) {
        store(x + n, grad * lse.template probability<kReduced>(load(x + n)) - each);
      }
      std::fill(x + count, x + whole, Acc(0));
      const int64_t place = p_.target[token] - classes.begin;
      if (place >= 0 && place < count) x[place] -= grads[token] * (1 - smoothing);
      if (p_.grad_bias) {
        for (int64_t n = 0; n < whole; n += W) store(grad_bias_ + n, load(grad_bias_ + n) + load(x + n));
      }
    }
  }

  MatrixView gradients(int64_t tokens, int64_t classes) const {
    return {tile_, sizeof(Acc) == 8 ? DType::kFloat64 : DType::kFloat32, tokens, classes, ld(), 1};
  }

  void add_hidden(Range tokens, const Panels<E>& weight, bool accumulate) const {
    const Operand* a;
    int64_t lda;
    if constexpr (E::kPack == 1) {
      a = tile_;
      lda = ld();
    } else {
      pack_rows<E>(gradients(tokens.size(), ld()), {0, tokens.size()}, {0, weight.operands()}, rows_, rows_ld());
      a = rows_;
      lda = rows_ld();
    }
    Acc* to = static_cast<Acc*>(p_.sum_hidden) + tokens.begin * dim_width_;
    for (int64_t panel = 0; panel < weight.count(); ++panel) {
      gemm<E, Lay::kRows>(tokens.size(), weight.vectors(panel), weight.operands(), a, lda, weight.at(panel),
                          weight.ld(), to + panel * Panels<E>::kColumns, dim_width_, accumulate);
    }
  }

  void add_weight(Range tokens, Range classes, const Panels<E>& hidden) const {
    if constexpr (E::kPack > 1) {
      pack_rows<E>(gradients(tokens.size(), ld()).transposed(), {0, classes.size()}, {0, hidden.operands()}, columns_,
                   columns_ld());
    }
    for (int64_t panel = 0; panel < hidden.count(); ++panel) {
      Acc* to = grad_weight_ + panel * Panels<E>::kColumns;
      if constexpr (E::kPack == 1) {
        gemm<E, Lay::kColumns>(classes.size(), hidden.vectors(panel), hidden.operands(), tile_, ld(), hidden.at(panel),
                               hidden.ld(), to, dim_width_, true);
      } else {
        gemm<E, Lay::kRows>(classes.size(), hidden.vectors(panel), hidden.operands(), columns_, columns_ld(),
                            hidden.at(panel), hidden.ld(), to, dim_width_, true);
      }
    }
  }

  void finish(Range classes) const {
    for (int64_t row = 0; p_.grad_weight && row < classes.size(); ++row) {
      store_row(p_.grad_weight.data, p_.dtype, (classes.begin + row) * p_.grad_weight.row_stride, 1, p_.dim(),
                grad_weight_ + row * dim_width_);
    }
    if (p_.grad_bias) {
      std::copy(grad_bias_, grad_bias_ + classes.size(), static_cast<Acc*>(p_.grad_bias) + classes.begin);
    }
  }

  const LinearCrossEntropyBackwardParams& p_;
  Parts parts_;
  int64_t dim_width_;
  Operand* by_class_;  // the classes' rows of the weight, as the right-hand side of H W^T
  Acc* tile_;          // (token_block, ld()): logits, then their gradients
  Operand* by_dim_;    // the same rows of the weight, as the right-hand side of G W
  Acc* grad_weight_;   // (class_block, dim_width_)
  Acc* grad_bias_;     // (ld())
  Operand *rows_, *columns_;
};

}  // namespace

int64_t linear_cross_entropy_packed_bytes(const LinearCrossEntropyBackwardParams& p) {
  int64_t bytes = 0;
  with_engine(p.dtype, [&](auto engine) {
    using E = decltype(engine);
    bytes = p.token_blocks() * packed_size<E>(p) * static_cast<int64_t>(sizeof(typename E::Operand));
  });
  return bytes;
}

int64_t linear_cross_entropy_step_bytes(const LinearCrossEntropyBackwardParams& p) {
  int64_t bytes = 0;
  with_engine(p.dtype, [&](auto engine) { bytes = Backward<decltype(engine)>(p, nullptr).bytes(); });
  return bytes;
}

int64_t linear_cross_entropy_sum_width(DType dtype, int64_t dim) {
  return dtype == DType::kFloat64 ? round_up(dim, kLanes<double>) : round_up(dim, kLanes<float>);
}

void linear_cross_entropy_pack_hidden(const LinearCrossEntropyBackwardParams& p, Range token_blocks) {
  with_engine(p.dtype, [&](auto engine) {
    for (int64_t block = token_blocks.begin; block < token_blocks.end; ++block) {
      const auto panels = packed_tokens<decltype(engine)>(p, block);
      panels.pack(rows_of(p.hidden, tokens_of(p, block)), {0, panels.count()});
    }
  });
}

void linear_cross_entropy_backward(const LinearCrossEntropyBackwardParams& p, const LinearCrossEntropyStep& step) {
  with_engine(p.dtype, [&](auto engine) { Backward<decltype(engine)>(p, step.memory).step(step); });
}

void linear_cross_entropy_store_hidden(const LinearCrossEntropyBackwardParams& p, const MatrixView& to,
                                       const int64_t* rows, Range tokens) {
  const int64_t width = linear_cross_entropy_sum_width(p.dtype, p.dim());
  with_acc(p.dtype, [&](auto acc) {
    for (int64_t token = tokens.begin; token < tokens.end; ++token) {
      store_row(to.data, p.dtype, rows[token] * to.row_stride, 1, p.dim(),
                static_cast<const decltype(acc)*>(p.sum_hidden) + token * width);
    }
  });
}

}  // namespace seo_kernels::cpu
