// What becomes of a row of a panel once it is summed.
#pragma once

#include "activations.hpp"
#include "kernels.hpp"

namespace {

constexpr int kPanel = cpu::kPanel;

inline void begin_tile(const cpu::PanelTask &t) {
    const float *bias = t.matrix->bias + t.panel * kPanel;
    for (int r = 0; r < t.last - t.first; r++)
        for (int i = 0; i < kPanel; i += kLanes) store(t.tile + r * kPanel + i, load(bias + i));
}

inline void finish_row(const cpu::PanelTask &t, const float *tile, float *out, int columns) {
    for (int i = 0; i < columns; i += kLanes) {
        F16 y = load(tile + i);
        if (t.finish == cpu::Finish::kGelu) y = gelu(y);
        if (t.finish == cpu::Finish::kAdd) y = add(load_part(out + i, columns - i, 0.0f), y);
        store_part(out + i, y, columns - i);
    }
}

inline void finish_tile(const cpu::PanelTask &t) {
    const int left = t.columns - t.panel * kPanel;
    for (int r = 0; r < t.last - t.first; r++)
        finish_row(t, t.tile + r * kPanel, t.out + (t.first + r) * t.out_stride + t.panel * kPanel,
                   left < kPanel ? left : kPanel);
}

}  // namespace
