// The bytes of the file: a growing buffer, and the bit writer of the entropy-coded data.
#ifndef EDGEJPEG_STREAM_H_
#define EDGEJPEG_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

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

// Packs codes from the most significant bit on and stuffs a zero byte behind every 0xFF [ITU-T T.81, F.1.2.3].
// Fewer than 32 bits wait in a 64-bit register between calls, so one call may bring up to 32.
class BitWriter {
 public:
  // Where the next byte goes. Move it when the memory moves.
  uint8_t* cursor = nullptr;

  // `bits` has nothing set above `count`, and `count` is at most 32.
  void put(uint32_t bits, unsigned count) {
    register_ = register_ << count | bits;
    waiting_ += count;
    if (waiting_ >= 32) {
      waiting_ -= 32;
      put_word(static_cast<uint32_t>(register_ >> waiting_));
    }
  }

  // Fills the last byte with ones.
  void finish() {
    const unsigned fill = (8 - waiting_ % 8) % 8;
    put((1u << fill) - 1, fill);
    while (waiting_ > 0) {
      waiting_ -= 8;
      put_byte(static_cast<uint8_t>(register_ >> waiting_));
    }
  }

 private:
  void put_byte(uint8_t value) {
    *cursor++ = value;
    if (value == 0xFF) *cursor++ = 0;
  }

  void put_word(uint32_t word) {
    const uint32_t inverted = ~word;
    const bool has_ff = ((inverted - 0x01010101u) & word & 0x80808080u) != 0;
    if (has_ff) {
      for (int shift = 24; shift >= 0; shift -= 8) put_byte(static_cast<uint8_t>(word >> shift));
      return;
    }
    for (int shift = 24; shift >= 0; shift -= 8) *cursor++ = static_cast<uint8_t>(word >> shift);
  }

  uint64_t register_ = 0;
  unsigned waiting_ = 0;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_STREAM_H_
