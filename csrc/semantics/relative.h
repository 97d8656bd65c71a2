// Relative positions: the row of a table of 2R+1 entries that a distance falls into (Shaw et al. 2018, section 3.2).
#pragma once

#include <cstdint>

#include "semantics/host_device.h"

namespace seo_kernels {

// clip(distance, -R, R) + R
SK_HOST_DEVICE int64_t relative_index(int64_t distance, int64_t max_distance) {
  if (distance < -max_distance) return 0;
  if (distance > max_distance) return 2 * max_distance;
  return distance + max_distance;
}

}  // namespace seo_kernels
