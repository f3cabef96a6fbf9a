// Which instructions this processor has.
#pragma once

#include "kernels.hpp"

namespace cpu {

// "amx", "avx512", "avx2", "neondot", "neon", "plain", or "" for the best that this processor has. Null where it lacks
// them.
const Kernels *choose(const char *name);

// Whether products are faster where memory is fetched ahead into the first cache level instead of the second.
bool fetches_near();

}  // namespace cpu
