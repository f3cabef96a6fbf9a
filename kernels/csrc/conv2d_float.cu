// conv2d_float: a convolution in float throughout, for the layers whose values half can't hold and for those that codes
// are chosen by. Few layers, so it is plain: no tensor cores.
// Reference: trt_vqgan.kernels.reference.conv2d.conv2d. Launches: trt_vqgan.kernels.launches.conv2d.
//
// Grid: (pixels / 64, channels / 64). Block: 256, 4 x 4 results a thread. Shared: 16 x (64 + 64) floats. Bytes: 4 a
// value of the picture for each tile of channels and tap (from the caches), 4 a weight for each tile of pixels. Limit:
// float32 rate.
#include "conv2d.cuh"

constexpr int kTile = 64;
constexpr int kChunk = 16;  // of the depth, taps x channels

// x float (B, height, width, channels); weights float (depth, channels of whole tiles) with depth side^2 x channels;
// bias float as many; residual float (pixels, pitch) or null; out in `form`.
extern "C" __global__ void __launch_bounds__(256)
    conv2d_float(const float *x, const float *weights, const float *bias, const float *residual, void *out, int pixels,
                 int height, int width, int channels, int outputs_high, int outputs_wide, int outputs, int side,
                 int stride, int pad, int up, int padded_outputs, int form, int pitch) {
    DYNAMIC_SHARED(float, shared_pixels);
    float *shared_weights = shared_pixels + kChunk * kTile;
    const int thread = threadIdx.x, depth = side * side * channels;
    const int first_pixel = blockIdx.x * kTile, first_channel = blockIdx.y * kTile;
    const int row = thread / 16 * 4, column = thread % 16 * 4;  // of this thread's results in the tile
    float sums[4][4] = {};
    for (int begin = 0; begin < depth; begin += kChunk) {
        for (int i = thread; i < kChunk * kTile; i += 256) {
            const int k = begin + i / kTile, pixel = first_pixel + i % kTile;
            float value = 0.f;
            if (k < depth && pixel < pixels) {
                const conv::Corner corner(pixel, outputs_high, outputs_wide, height, width, stride, pad);
                const int tap = k / channels, from = corner.pixel(tap / side, tap % side, height, width, up);
                if (from >= 0) value = x[static_cast<size_t>(from) * channels + k % channels];
            }
            shared_pixels[i] = value;
            shared_weights[i] =
                k < depth ? weights[static_cast<size_t>(k) * padded_outputs + first_channel + i % kTile] : 0.f;
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < kChunk; k++) {
            const float4 a = *reinterpret_cast<const float4 *>(shared_pixels + k * kTile + row),
                         b = *reinterpret_cast<const float4 *>(shared_weights + k * kTile + column);
            const float down[4] = {a.x, a.y, a.z, a.w}, across[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = fmaf(down[i], across[j], sums[i][j]);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int pixel = first_pixel + row + i;
        if (pixel >= pixels) return;
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            const int made = first_channel + column + j;
            float first = sums[i][j] + bias[made], second = sums[i][j + 1] + bias[made + 1];
            if (residual != nullptr && made < pitch) {
                const float *added = residual + static_cast<size_t>(pixel) * pitch + made;
                first += added[0];
                if (made + 1 < pitch) second += added[1];
            }
            conv::store_pair(out, form, pixel, made, first, second, outputs, pitch, outputs_high * outputs_wide);
        }
    }
}
