// Products in the tiles of AMX. To be called only where the processor has them and the system allows them.
#pragma once

#include "kernels.hpp"

namespace cpu {

// As the routine of AVX-512, to the bit. Takes what has few rows, or floats, to that.
void amx_panel(const PanelTask &task);

}  // namespace cpu
