// The bytes of the file: a growing buffer.
#ifndef EDGEJPEG_STREAM_H_
#define EDGEJPEG_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "buffer.h"

namespace edgejpeg {

// Appends unchecked: reserve first.
class ByteStream {
 public:
  [[nodiscard]] bool reserve(size_t extra) {
    size_t needed = 0;
    if (__builtin_add_overflow(size_, extra, &needed)) return false;
    if (needed <= buffer_.capacity()) return true;
    const size_t doubled = 2 * buffer_.capacity();
    return buffer_.reserve(needed > doubled ? needed : doubled, size_);
  }
  void clear() { size_ = 0; }
  void swap(ByteStream& other) {
    buffer_.swap(other.buffer_);
    std::swap(size_, other.size_);
  }
  void put(uint8_t value) { buffer_.data()[size_++] = value; }
  void put16(size_t value) {
    put(static_cast<uint8_t>(value >> 8));
    put(static_cast<uint8_t>(value));
  }
  void put(const void* bytes, size_t count) {
    if (count > 0) std::memcpy(end(), bytes, count);
    size_ += count;
  }
  // For a writer that filled memory behind the end by itself.
  uint8_t* end() { return buffer_.data() + size_; }
  void set_end(const uint8_t* end) { size_ = static_cast<size_t>(end - buffer_.data()); }

  const uint8_t* data() const { return buffer_.data(); }
  size_t size() const { return size_; }

 private:
  Buffer<uint8_t> buffer_;
  size_t size_ = 0;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_STREAM_H_
