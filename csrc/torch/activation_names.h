// Activations by name.
#pragma once

#include <stdexcept>
#include <string>

#include "semantics/activation.h"

namespace seo_kernels {

inline Activation activation_of(const std::string& name) {
  std::string names;
  for (int n = 0; n < kActivations; ++n) {
    if (name == kActivationNames[n]) return static_cast<Activation>(n);
    names += std::string(n ? ", " : "") + kActivationNames[n];
  }
  throw std::invalid_argument("activation is '" + name + "', expected one of " + names);
}

}  // namespace seo_kernels
