// Growing memory that reports failure instead of throwing.
#ifndef EDGEJPEG_BUFFER_H_
#define EDGEJPEG_BUFFER_H_

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

namespace edgejpeg {

// Holds plain values only. Keeps its memory between frames; never shrinks.
template <typename T>
class Buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Buffer() = default;
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Room for at least `count` values; the first `kept` of the old ones survive. False when memory is short.
  [[nodiscard]] bool reserve(size_t count, size_t kept = 0) {
    if (count <= capacity_) return true;
    size_t bytes = 0;
    if (__builtin_mul_overflow(count, sizeof(T), &bytes)) return false;
    const size_t alignment = bytes < kManyBytes ? kAlignment : kHugePage;
    if (__builtin_add_overflow(bytes, alignment - 1, &bytes)) return false;
    bytes -= bytes % alignment;
    void* grown = std::aligned_alloc(alignment, bytes);
    if (grown == nullptr) return false;
#if defined(__linux__)
    // A wish: the coefficients of a large frame are walked through twice, and with small pages each is looked up anew.
    if (alignment == kHugePage) madvise(grown, bytes, MADV_HUGEPAGE);
#endif
    if (kept > 0) std::memcpy(grown, data_, kept * sizeof(T));
    std::free(data_);
    data_ = static_cast<T*>(grown);
    capacity_ = count;
    return true;
  }

  void swap(Buffer& other) {
    std::swap(data_, other.data_);
    std::swap(capacity_, other.capacity_);
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t capacity() const { return capacity_; }

 private:
  static constexpr size_t kAlignment = 64;  // a cache line, and the widest vector register
  static constexpr size_t kHugePage = size_t{2} << 20;
  static constexpr size_t kManyBytes = size_t{1} << 20;
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_BUFFER_H_
