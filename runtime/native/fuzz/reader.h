// Reads values from the bytes of a fuzzer; zeros when they are used up.
#ifndef EDGEJPEG_FUZZ_READER_H
#define EDGEJPEG_FUZZ_READER_H

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace edgejpeg_fuzz {

class Reader {
 public:
  Reader(const uint8_t* data, size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }

  // Any value of an arithmetic type.
  template <typename T>
  T any() {
    T value = {};
    const size_t count = sizeof(T) < left_ ? sizeof(T) : left_;
    if (count == 0) return value;
    std::memcpy(&value, data_, count);
    data_ += count;
    left_ -= count;
    return value;
  }

  // low..high, of two bytes.
  int32_t range(int32_t low, int32_t high) { return low + any<uint16_t>() % (high - low + 1); }

  // 0..count - 1, of one byte.
  size_t choice(size_t count) { return any<uint8_t>() % count; }

  // True once in `times`; false where there are no bytes left.
  bool once_in(size_t times) { return choice(times) == times - 1; }

 private:
  const uint8_t* data_;
  size_t left_;
};

// A small generator, for content that needs no bytes of the input.
class Noise {
 public:
  explicit Noise(uint32_t seed) : state_(seed | 1) {}
  uint32_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 17;
    state_ ^= state_ << 5;
    return state_;
  }

 private:
  uint32_t state_;
};

}  // namespace edgejpeg_fuzz

#endif  // EDGEJPEG_FUZZ_READER_H
