// The kernels of the best instruction set that this machine, this build and SEO_KERNELS_CPU_CAPABILITY allow.
#pragma once

#include "cpu/kernel_table.h"

namespace seo_kernels::cpu {

// Loads the plugin on first use. Throws std::invalid_argument for an unknown capability in the environment variable,
// std::runtime_error where no plugin can be loaded.
const Kernels& kernels();

}  // namespace seo_kernels::cpu
