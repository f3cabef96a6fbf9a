// A second translation unit: everything in the headers must be inline.
#include <trt_vqgan/host.hpp>

std::size_t size_in_second_unit(const trt_vqgan::Result &result) {
    return result.codes.size();
}
