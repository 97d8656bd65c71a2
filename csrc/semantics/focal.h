// Focal loss of a target class with probability p = e^-l: (1 - p)^gamma l. Lin et al. 2017, eq. 5.
#pragma once

#include <cmath>

#include "semantics/host_device.h"

namespace seo_kernels {

// Its value, and its derivative by l.
template <class Acc>
struct FocalTerm {
  Acc value, slope;
};

template <class Acc>
SK_HOST_DEVICE FocalTerm<Acc> focal_term(Acc l, Acc gamma) {
  if (gamma == 0) return {l, Acc(1)};
  const Acc rest = -std::expm1(-l);          // 1 - p
  if (rest <= 0) return {Acc(0), Acc(0)};    // p is 1: both vanish in the limit
  const Acc factor = std::pow(rest, gamma);  // p l -> 0 for l -> inf, where the product would be NaN
  const Acc moved = std::isinf(l) ? Acc(0) : gamma * (factor / rest) * (1 - rest) * l;
  return {factor * l, factor + moved};
}

}  // namespace seo_kernels
