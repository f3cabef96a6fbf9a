// What the convolutions of a VQGAN share: which pixel a tap reads, and in which form results are written.
//
// Pictures lie channels last, (B, H, W, pitch), a pitch being the number of channels rounded up to a multiple of 8;
// channels beyond the last are zero. `up` is 1 where the picture is read with each pixel twice along both axes. A tap
// (r, s) of output (y, x) reads input (y stride + r - pad, x stride + s - pad), zero outside of the picture.
#pragma once
#include "portable.cuh"

namespace conv {

enum Form { kHalf = 0, kPlanes = 1, kFloat = 2 };  // half (B, H, W, pitch), half (B, C, H, W), float (B, H, W, pitch)

// Where the taps of one output begin.
struct Corner {
    int image, y, x;  // first pixel of the picture among all; the first tap's row and column

    __device__ __forceinline__ Corner(int output, int outputs_high, int outputs_wide, int height, int width, int stride,
                                      int pad) {
        const int plane = outputs_high * outputs_wide, place = output % plane;
        image = output / plane * height * width;
        y = place / outputs_wide * stride - pad;
        x = place % outputs_wide * stride - pad;
    }

    // Returns the pixel that a tap reads, -1 outside of the picture.
    __device__ __forceinline__ int pixel(int r, int s, int height, int width, int up) const {
        const int row = y + r, column = x + s;
        if (row < 0 || column < 0 || row >= height << up || column >= width << up) return -1;
        return image + (row >> up) * width + (column >> up);
    }
};

// Writes two neighbouring channels of one pixel; `channel` is even. `outputs` channels are real; the ones up to the
// pitch get what there is, which is zero.
__device__ __forceinline__ void store_pair(void *out, int form, int pixel, int channel, float first, float second,
                                           int outputs, int pitch, int plane) {
    if (form == kHalf) {
        if (channel < pitch)
            *reinterpret_cast<half2 *>(static_cast<half *>(out) + static_cast<size_t>(pixel) * pitch + channel) =
                __floats2half2_rn(first, second);
        return;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (channel + i >= (form == kFloat ? pitch : outputs)) return;
        const float value = i ? second : first;
        if (form == kFloat)
            static_cast<float *>(out)[static_cast<size_t>(pixel) * pitch + channel + i] = value;
        else
            static_cast<half *>(
                out)[(static_cast<size_t>(pixel / plane) * outputs + channel + i) * plane + pixel % plane] =
                __float2half_rn(value);
    }
}

}  // namespace conv
