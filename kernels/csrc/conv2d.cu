// conv2d: convolutions of a VQGAN as matrix products on tensor cores, half in, float sums; bias and a residual are
// added in float before the result is rounded.
// Reference: trt_vqgan.kernels.reference.conv2d.conv2d. Launches: trt_vqgan.kernels.launches.conv2d.
//
// A block makes a tile of output pixels x output channels. Of the products' depth, taps x channels, 32 at a time are
// copied to shared memory in the background, three stages of them; each granule of 8 channels finds its own tap, so any
// multiple of 8 channels will do, and taps outside of the picture are zeros.
//
//   conv2d_128x128  Grid: (pixels / 128, channels / 128). Block: 256, a warp 64 x 32. Shared: 48 KiB.
//   conv2d_64x64    Grid: (pixels / 64, channels / 64). Block: 128, a warp 32 x 32. Shared: 24 KiB. For few tiles.
//   conv2d_128x16   Grid: (pixels / 128, channels / 16). Block: 256, a warp 16 x 16. Shared: 27 KiB. For at most 16
//                   channels.
// Bytes: the picture once for each tile of channels (taps beside each other come from the caches), the weights once for
// each tile of pixels from L2, 2 a result. Limit: mma.sync rate.
#include "conv2d.cuh"
#include "tensor_core.cuh"

constexpr int kStages = 3;
constexpr int kDepth = 32;  // of one stage

namespace {

// Granule g (16 bytes) of a row lies where ldmatrix of eight rows meets no bank twice.
__device__ __forceinline__ int swizzled(int row, int granule) {
    return row * kDepth + (granule ^ (row >> 1 & 3)) * 8;
}

template <int tile_pixels, int tile_channels, int warps_down, int warps_across>
__device__ __forceinline__ void convolve(const half *__restrict__ x, const half *__restrict__ weights,
                                         const float *__restrict__ bias, const half *__restrict__ residual, void *out,
                                         int pixels, int height, int width, int channels, int outputs_high,
                                         int outputs_wide, int outputs, int side, int stride, int pad, int up,
                                         int depth, int form, int pitch) {
    constexpr int threads = 32 * warps_down * warps_across;
    constexpr int rows = tile_pixels / warps_down, columns = tile_channels / warps_across;  // of a warp
    constexpr int copies = tile_pixels * 4 / threads;                                       // of pixels, each thread
    constexpr int stage_halves = (tile_pixels + tile_channels) * kDepth;
    DYNAMIC_SHARED(half, shared);
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int down = warp / warps_across, across = warp % warps_across;
    const int first_pixel = blockIdx.x * tile_pixels, first_channel = blockIdx.y * tile_channels;
    const int granule = thread & 3, steps = depth / kDepth;

    int images[copies], tops[copies], lefts[copies];
#pragma unroll
    for (int i = 0; i < copies; i++) {
        const int pixel = first_pixel + (thread >> 2) + i * (threads / 4);
        const conv::Corner corner(min(pixel, pixels - 1), outputs_high, outputs_wide, height, width, stride, pad);
        images[i] = corner.image;
        tops[i] = pixel < pixels ? corner.y : -side;  // no tap of it is inside
        lefts[i] = corner.x;
    }
    int channel = granule * 8, r = 0, s = 0;  // of this thread's next granule
    auto settle = [&] {
        while (channel >= channels) {
            channel -= channels;
            if (++s == side) {
                s = 0;
                r++;
            }
        }
    };
    settle();

    auto load = [&](int step) {
        if (step < steps) {
            half *stage = shared + step % kStages * stage_halves;
#pragma unroll
            for (int i = 0; i < copies; i++) {
                const int row = tops[i] + r, column = lefts[i] + s;
                const bool valid = r < side && row >= 0 && column >= 0 && row < height << up && column < width << up;
                const int from = images[i] + (row >> up) * width + (column >> up);
                tc::copy_async_16(stage + swizzled((thread >> 2) + i * (threads / 4), granule),
                                  x + (valid ? static_cast<size_t>(from) * channels + channel : 0), valid);
            }
            half *stage_weights = stage + tile_pixels * kDepth;
#pragma unroll
            for (int k = thread; k < tile_channels * 4; k += threads)
                tc::copy_async_16(
                    stage_weights + swizzled(k >> 2, granule),
                    weights + static_cast<size_t>(first_channel + (k >> 2)) * depth + step * kDepth + granule * 8);
            channel += kDepth;
            settle();
        }
        tc::copy_async_commit();
    };
    for (int step = 0; step < kStages - 1; step++) load(step);

    tc::FragmentC sums[rows / 16][columns / 8];
#pragma unroll
    for (int i = 0; i < rows / 16; i++)
#pragma unroll
        for (int j = 0; j < columns / 8; j++) sums[i][j] = {{0.f, 0.f, 0.f, 0.f}};
    for (int step = 0; step < steps; step++) {
        tc::copy_async_wait<kStages - 2>();
        __syncthreads();
        load(step + kStages - 1);
        const half *stage = shared + step % kStages * stage_halves, *stage_weights = stage + tile_pixels * kDepth;
#pragma unroll
        for (int part = 0; part < kDepth / 16; part++) {
            tc::FragmentA a[rows / 16];
            tc::FragmentB b[columns / 8];
#pragma unroll
            for (int i = 0; i < rows / 16; i++)
                tc::load_matrices_x4(a[i].r,
                                     stage + swizzled(down * rows + i * 16 + (lane & 15), part * 2 + (lane >> 4)));
#pragma unroll
            for (int j = 0; j < columns / 8; j += 2) {
                uint32_t pair[4];
                tc::load_matrices_x4(pair,
                                     stage_weights + swizzled(across * columns + j * 8 + (lane & 7) + (lane >> 4) * 8,
                                                              part * 2 + (lane >> 3 & 1)));
                b[j].r[0] = pair[0], b[j].r[1] = pair[1];
                b[j + 1].r[0] = pair[2], b[j + 1].r[1] = pair[3];
            }
#pragma unroll
            for (int i = 0; i < rows / 16; i++)
#pragma unroll
                for (int j = 0; j < columns / 8; j++) tc::mma_m16n8k16(sums[i][j], a[i], b[j]);
        }
    }
    tc::copy_async_wait<0>();

#pragma unroll
    for (int i = 0; i < rows / 16; i++)
#pragma unroll
        for (int q = 0; q < 2; q++) {
            const int pixel = first_pixel + down * rows + i * 16 + q * 8 + (lane >> 2);
            if (pixel >= pixels) continue;
#pragma unroll
            for (int j = 0; j < columns / 8; j++) {
                const int made = first_channel + across * columns + j * 8 + (lane & 3) * 2;
                const float2 shift = *reinterpret_cast<const float2 *>(bias + made);
                float first = sums[i][j].r[q * 2] + shift.x, second = sums[i][j].r[q * 2 + 1] + shift.y;
                if (residual != nullptr && made < pitch) {
                    const float2 added = __half22float2(
                        *reinterpret_cast<const half2 *>(residual + static_cast<size_t>(pixel) * pitch + made));
                    first += added.x;
                    second += added.y;
                }
                conv::store_pair(out, form, pixel, made, first, second, outputs, pitch, outputs_high * outputs_wide);
            }
        }
}

}  // namespace

// x half (B, height, width, channels); weights half (channels of whole tiles, depth), zero beyond the last; bias float
// as many; residual half (pixels, pitch) or null, only with the form kHalf; out in `form`.
#define CONV2D(name, tile_pixels, tile_channels, warps_down, warps_across)                                         \
    extern "C" __global__ void __launch_bounds__(32 * warps_down * warps_across, 2)                                \
        name(const half *x, const half *weights, const float *bias, const half *residual, void *out, int pixels,   \
             int height, int width, int channels, int outputs_high, int outputs_wide, int outputs, int side,       \
             int stride, int pad, int up, int depth, int form, int pitch) {                                        \
        convolve<tile_pixels, tile_channels, warps_down, warps_across>(                                            \
            x, weights, bias, residual, out, pixels, height, width, channels, outputs_high, outputs_wide, outputs, \
            side, stride, pad, up, depth, form, pitch);                                                            \
    }
CONV2D(conv2d_128x128, 128, 128, 2, 4)
CONV2D(conv2d_64x64, 64, 64, 2, 2)
CONV2D(conv2d_128x16, 128, 16, 8, 1)
