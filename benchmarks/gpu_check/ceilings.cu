// Measures the limits of a GPU and prints them as one JSON object:
//   read, copy    GB/s over 2 GiB (or a quarter of the memory), counted once for read and twice for copy
//   mma_sync      TFLOP/s of m16n8k16 products of half with float sums, in registers
//   gap_us        a boundary between two empty kernels in a CUDA graph; gap_pdl_us with programmatic launch (sm_90)
//   barrier_us    a barrier of all blocks of a cooperative kernel, two a multiprocessor
// Host program: nvcc -arch=native ceilings.cu. Medians of 20 repetitions after 3.
#include <cooperative_groups.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(call)                                                                               \
    do {                                                                                          \
        cudaError_t status = (call);                                                              \
        if (status != cudaSuccess) {                                                              \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(status));       \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

__global__ void read_all(const uint4* data, size_t count, unsigned* out) {
    unsigned sum = 0;
    const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i + 3 * step < count; i += 4 * step) {
        uint4 v[4];
#pragma unroll
        for (int k = 0; k < 4; k++) v[k] = __ldcs(data + i + k * step);
#pragma unroll
        for (int k = 0; k < 4; k++) sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (sum == 0x12345678u) *out = sum;  // keeps the loads
}

__global__ void copy_all(const uint4* from, uint4* to, size_t count) {
    const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    for (size_t i = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
        __stcs(to + i, __ldcs(from + i));
}

__global__ void products(float* out, int rounds) {
    unsigned a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = 0x3c003c00u + threadIdx.x;
    for (int i = 0; i < 2; i++) b[i] = 0x00010001u + threadIdx.x;
    float c[8][4] = {};
    for (int round = 0; round < rounds; round++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            asm volatile(
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                "{%0,%1,%2,%3};"
                : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
                : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    if (sum == 0.12345f) *out = sum;
}

__global__ void empty() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__global__ void barriers(int count) {
    auto grid = cooperative_groups::this_grid();
    for (int i = 0; i < count; i++) grid.sync();
}

template <typename Issue>
static double median_seconds(cudaStream_t stream, Issue issue) {
    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    std::vector<double> seconds;
    for (int i = 0; i < 23; i++) {
        CHECK(cudaEventRecord(begin, stream));
        issue();
        CHECK(cudaGetLastError());
        CHECK(cudaEventRecord(end, stream));
        CHECK(cudaEventSynchronize(end));
        float milliseconds = 0;
        CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
        if (i >= 3) seconds.push_back(milliseconds / 1e3);
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
}

static double chain_seconds(cudaStream_t stream, int kernels, bool programmatic) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(1);
    config.blockDim = dim3(32);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = programmatic ? 1 : 0;
    for (int i = 0; i < kernels; i++) CHECK(cudaLaunchKernelEx(&config, empty));
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&executable, graph, 0));
    const double seconds = median_seconds(stream, [&] { CHECK(cudaGraphLaunch(executable, stream)); });
    CHECK(cudaGraphExecDestroy(executable));
    CHECK(cudaGraphDestroy(graph));
    return seconds;
}

static double gap_us(cudaStream_t stream, bool programmatic) {
    return (chain_seconds(stream, 200, programmatic) - chain_seconds(stream, 100, programmatic)) / 100 * 1e6;
}

int main(int argc, char** argv) {
    CHECK(cudaSetDevice(argc > 1 ? atoi(argv[1]) : 0));
    int device = 0;
    CHECK(cudaGetDevice(&device));
    cudaDeviceProp properties{};
    CHECK(cudaGetDeviceProperties(&properties, device));
    const int multiprocessors = properties.multiProcessorCount;
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

    const size_t bytes = std::min<size_t>(size_t{2} << 30, properties.totalGlobalMem / 4) & ~size_t{0xffff};
    uint4 *from, *to;
    CHECK(cudaMalloc(&from, bytes));
    CHECK(cudaMalloc(&to, bytes));
    CHECK(cudaMemset(from, 1, bytes));
    const size_t count = bytes / sizeof(uint4);
    auto* out = reinterpret_cast<unsigned*>(to);
    const double read =
        median_seconds(stream, [&] { read_all<<<multiprocessors * 8, 256, 0, stream>>>(from, count, out); });
    const double copy =
        median_seconds(stream, [&] { copy_all<<<multiprocessors * 8, 256, 0, stream>>>(from, to, count); });

    const int rounds = 4096;
    auto* sink = reinterpret_cast<float*>(to);
    const double multiply =
        median_seconds(stream, [&] { products<<<multiprocessors * 2, 512, 0, stream>>>(sink, rounds); });
    const double operations = 2.0 * 16 * 8 * 16 * 8 * rounds * (multiprocessors * 2.0 * 512 / 32);

    printf("{\"read\": %.1f, \"copy\": %.1f, \"mma_sync\": %.1f, \"gap_us\": %.3f", bytes / read / 1e9,
           2.0 * bytes / copy / 1e9, operations / multiply / 1e12, gap_us(stream, false));
    if (properties.major >= 9) printf(", \"gap_pdl_us\": %.3f", gap_us(stream, true));

    int syncs = 0;
    void* arguments[] = {&syncs};
    double seconds[2];
    for (int i = 0; i < 2; i++) {
        syncs = i ? 200 : 100;
        seconds[i] = median_seconds(stream, [&] {
            CHECK(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(barriers), dim3(multiprocessors * 2), dim3(256),
                                              arguments, 0, stream));
        });
    }
    printf(", \"barrier_us\": %.3f}\n", (seconds[1] - seconds[0]) / 100 * 1e6);
    CHECK(cudaStreamDestroy(stream));
    return 0;
}
