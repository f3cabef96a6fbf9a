// Arrays between a host and the runtime: the host's memory as it is, and views of the runtime's own. All in C order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace trt_vqgan {

using Shape = std::vector<std::int64_t>;

inline std::size_t count(const Shape &shape) {
    std::size_t product = 1;
    for (std::int64_t side : shape) product *= static_cast<std::size_t>(side);
    return product;
}

// An array of the host's that is read during one call, where it lies.
template <class T>
struct Input {
    const T *data = nullptr;
    Shape shape;
};

// An array of the host's that one call fills.
template <class T>
struct Output {
    T *data = nullptr;
    Shape shape;
};

// An array that the runtime made. Copies share it; the memory goes back with the last one, on whatever thread that is.
template <class T>
class View {
  public:
    View() = default;
    View(std::shared_ptr<void> owner, const T *data, Shape shape)
        : owner_(std::move(owner)), data_(data), shape_(std::move(shape)) {}

    const T *data() const { return data_; }
    const Shape &shape() const { return shape_; }
    std::size_t size() const { return data_ ? count(shape_) : 0; }
    const T *begin() const { return data_; }
    const T *end() const { return data_ + size(); }
    const T &operator[](std::size_t i) const { return data_[i]; }

    // The i-th along the first axis, as of pictures (N, H, W, C) one picture (H, W, C).
    View part(std::size_t i) const {
        Shape rest(shape_.begin() + 1, shape_.end());
        const T *start = data_ + i * count(rest);
        return View(owner_, start, std::move(rest));
    }

    operator Input<T>() const { return {data_, shape_}; }

  private:
    std::shared_ptr<void> owner_;
    const T *data_ = nullptr;
    Shape shape_;
};

}  // namespace trt_vqgan
