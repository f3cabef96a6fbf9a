// A host: four threads that generate, a picture of its own through the codes and back, and a job that is cancelled.
//
//     cpp_host BUNDLE OUT
//
// An empty BUNDLE is the model that ships with the package. OUT gets pictures (.ppm) and their codes (.codes, int64).
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <trt_vqgan/host.hpp>

namespace {

constexpr int kThreads = 4, kJobs = 8;

void write(const std::filesystem::path &path, const std::string &head, const void *content, std::size_t bytes) {
    std::ofstream file(path, std::ios::binary);
    file << head;
    file.write(static_cast<const char *>(content), static_cast<std::streamsize>(bytes));
    if (!file.flush()) throw std::runtime_error("can't write " + path.string());
}

void save(const std::filesystem::path &folder, const std::string &name, const std::uint8_t *picture, std::int64_t width,
          std::int64_t height, const std::int64_t *codes, std::size_t number) {
    const std::string head = "P6\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n";
    write(folder / (name + ".ppm"), head, picture, static_cast<std::size_t>(width * height * 3));
    write(folder / (name + ".codes"), "", codes, number * sizeof(std::int64_t));
}

// Job i is seed i, so its codes are those of any other program that takes this seed of this bundle.
void generate(const trt_vqgan::Pipeline &pipeline, int job, const std::filesystem::path &folder) {
    trt_vqgan::Request request;
    request.n = 1;
    request.seed = static_cast<std::uint64_t>(job);
    const trt_vqgan::Result result = pipeline.generate(request);
    const auto image = result.images.part(0);
    save(folder, "seed-" + std::to_string(job), image.data(), image.shape()[1], image.shape()[0], result.codes.data(),
         result.codes.size());
}

void generate_on_threads(const trt_vqgan::Pipeline &pipeline, const std::filesystem::path &folder) {
    std::mutex mutex;
    std::exception_ptr failure;
    int next = 0;
    const auto work = [&] {
        try {
            for (;;) {
                int job;
                {
                    const std::lock_guard<std::mutex> lock(mutex);
                    if (next == kJobs || failure) return;
                    job = next++;
                }
                generate(pipeline, job, folder);
            }
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
        }
    };
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; i++) threads.emplace_back(work);
    for (std::thread &thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
    std::printf("%d pictures by %d threads\n", kJobs, kThreads);
}

// Memory of the host's own on both sides: the runtime reads and writes it where it lies.
void reconstruct(const trt_vqgan::Pipeline &pipeline, const std::filesystem::path &folder) {
    const trt_vqgan::ModelInfo info = pipeline.info();
    const std::int64_t side = info.resolution, grid = side / info.factor;
    std::vector<std::uint8_t> picture;
    for (std::int64_t y = 0; y < side; y++)
        for (std::int64_t x = 0; x < side; x++)
            for (std::int64_t value : {x * 255 / side, y * 255 / side, std::int64_t{128}})
                picture.push_back(static_cast<std::uint8_t>(value));
    std::vector<std::int64_t> codes(static_cast<std::size_t>(grid * grid));
    std::vector<std::uint8_t> decoded(picture.size());
    const trt_vqgan::Output<std::int64_t> codes_out{codes.data(), {1, grid, grid}};
    pipeline.encode(trt_vqgan::Input<std::uint8_t>{picture.data(), {1, side, side, 3}}, codes_out);
    pipeline.decode({codes.data(), {1, grid, grid}}, {decoded.data(), {1, side, side, 3}});
    save(folder, "gradient", decoded.data(), side, side, codes.data(), codes.size());
    std::printf("a gradient through %zu codes\n", codes.size());
}

void cancel(const trt_vqgan::Pipeline &pipeline) {
    trt_vqgan::Request request;
    request.n = 100;
    request.on_progress = [](const trt_vqgan::Progress &progress) { return progress.done_codes < 100; };
    try {
        pipeline.generate(request);
    } catch (const trt_vqgan::Cancelled &cancelled) {
        std::printf("%s\n", cancelled.what());
        return;
    }
    throw std::runtime_error("a job that was cancelled went on to its end");
}

}  // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: cpp_host BUNDLE OUT\n");
        return 2;
    }
    try {
        const std::filesystem::path folder = argv[2];
        std::filesystem::create_directories(folder);
        trt_vqgan::Runtime runtime;
        trt_vqgan::LoadOptions options;
        options.threads = 1;  // the kThreads jobs are what runs at once
        const auto pipeline = trt_vqgan::Pipeline::open(argv[1], options);
        std::printf("%s\n", pipeline.info().backend_details.c_str());
        generate_on_threads(pipeline, folder);
        reconstruct(pipeline, folder);
        cancel(pipeline);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "cpp_host: %s\n", error.what());
        return 1;
    }
    return 0;
}
