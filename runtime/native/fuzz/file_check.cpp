#include "file_check.h"

#include <algorithm>
#include <cstring>

#include "check.h"

namespace edgejpeg_fuzz {
namespace {

constexpr uint8_t kZigzag[64] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
                                 41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
                                 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

struct HuffmanTable {
  bool defined = false;
  uint8_t counts[16] = {};
  uint8_t symbols[256] = {};
};

// The bits of the entropy-coded segment, stuffed zeros taken out; it ends at EOI, which must end the file.
class Bits {
 public:
  Bits(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  unsigned bit() {
    if (left_ == 0) {
      FUZZ_CHECK(at_ + 2 < size_, "the scan ends too early");
      byte_ = data_[at_++];
      if (byte_ == 0xFF) FUZZ_CHECK(data_[at_++] == 0, "a marker inside the scan, at byte %zu of it", at_ - 1);
      left_ = 8;
    }
    return byte_ >> --left_ & 1u;
  }

  unsigned bits(unsigned count) {
    unsigned value = 0;
    for (; count > 0; --count) value = value << 1 | bit();
    return value;
  }

  // T.81, figure F.16: a code is a path of canonical codes.
  unsigned symbol(const HuffmanTable& table) {
    unsigned code = 0;
    unsigned first = 0;
    unsigned index = 0;
    for (unsigned count : table.counts) {
      code |= bit();
      if (code - first < count) return table.symbols[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    FUZZ_CHECK(false, "the scan has bits that are no code");
    return 0;
  }

  // The end of an interval, and its marker.
  void restart(size_t index) {
    while (left_ > 0) FUZZ_CHECK(bit() == 1, "the last byte before a restart marker is not filled with ones");
    FUZZ_CHECK(at_ + 2 < size_ && data_[at_] == 0xFF && data_[at_ + 1] == 0xD0 + index % 8, "no restart marker %zu",
               index);
    at_ += 2;
  }

  void end() {
    while (left_ > 0) FUZZ_CHECK(bit() == 1, "the last byte of the scan is not filled with ones");
    FUZZ_CHECK(size_ - at_ == 2 && data_[at_] == 0xFF && data_[at_ + 1] == 0xD9, "%zu bytes behind the scan, not EOI",
               size_ - at_);
  }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t at_ = 0;
  unsigned byte_ = 0;
  unsigned left_ = 0;
};

// The value of `count` bits by T.81, table F.1.
int extend(unsigned bits, unsigned count) {
  if (count == 0) return 0;
  const int value = static_cast<int>(bits);
  return bits >> (count - 1) != 0 ? value : value - (1 << count) + 1;
}

class File {
 public:
  File(const uint8_t* data, size_t size, const Expected& expected) : data_(data), size_(size), expected_(expected) {}

  void check() {
    FUZZ_CHECK(size_ > 4 && data_[0] == 0xFF && data_[1] == 0xD8, "no SOI");
    FUZZ_CHECK(data_[size_ - 2] == 0xFF && data_[size_ - 1] == 0xD9, "no EOI");
    size_t at = 2;
    while (data_[at + 1] != 0xD9) {
      FUZZ_CHECK(at + 4 < size_ && data_[at] == 0xFF, "no marker at byte %zu", at);
      const uint8_t marker = data_[at + 1];
      const size_t length = static_cast<size_t>(data_[at + 2]) << 8 | data_[at + 3];
      FUZZ_CHECK(length >= 2 && at + 2 + length < size_, "marker %02x has length %zu", marker, length);
      segment(marker, data_ + at + 4, length - 2);
      at += 2 + length;
      if (marker != 0xDA) continue;
      ++scans_;
      if (!expected_.progressive) break;
      while (data_[at] != 0xFF || data_[at + 1] == 0) FUZZ_CHECK(++at + 1 < size_, "a scan without an end");
    }
    FUZZ_CHECK(has_frame_, "no SOF");
    FUZZ_CHECK(has_comment_ == !expected_.comment->empty(), "a comment where there is none, or the other way round");
    FUZZ_CHECK(has_jfif_ != expected_.lean && has_exif_ == (expected_.orientation != 0), "wrong APP segments");
    FUZZ_CHECK(!expected_.lean || expected_.progressive || segments_ == 2, "a lean file with %zu segments of tables",
               segments_);
    if (!expected_.progressive) return scan(at);
    FUZZ_CHECK(scans_ == (expected_.components == 1 ? 3 : 5) && at == size_ - 2, "%zu scans in %zu bytes", scans_, at);
  }

 private:
  void segment(uint8_t marker, const uint8_t* payload, size_t length) {
    switch (marker) {
      case 0xC0:
      case 0xC2:
        FUZZ_CHECK((marker == 0xC2) == expected_.progressive, "SOF %02x", marker);
        frame(payload, length);
        break;
      case 0xC4:
        ++segments_;
        huffman(payload, length);
        break;
      case 0xDB:
        ++segments_;
        quantization(payload, length);
        break;
      case 0xDA:
        if (expected_.progressive) break;
        FUZZ_CHECK(payload[0] == expected_.components && length == 4 + 2 * expected_.components, "a wrong SOS");
        for (size_t c = 0; c < expected_.components; ++c) selector_[c] = payload[2 + 2 * c];
        FUZZ_CHECK(payload[length - 3] == 0 && payload[length - 2] == 63 && payload[length - 1] == 0,
                   "no baseline SOS");
        break;
      case 0xFE:
        has_comment_ = true;
        FUZZ_CHECK(length == expected_.comment->size() && std::memcmp(payload, expected_.comment->data(), length) == 0,
                   "another comment, of %zu bytes", length);
        break;
      case 0xDD:
        interval_ = static_cast<size_t>(payload[0]) << 8 | payload[1];
        FUZZ_CHECK(length == 2 && interval_ > 0 && expected_.restart_rows > 0, "a DRI segment for %zu", interval_);
        break;
      case 0xE0:
        has_jfif_ = true;
        break;
      case 0xE1:
        has_exif_ = true;
        FUZZ_CHECK(length == 32 && std::memcmp(payload, "Exif\0\0MM", 8) == 0 && payload[24] == 0 &&
                       payload[25] == expected_.orientation,
                   "an APP1 segment of %zu bytes", length);
        break;
      default:
        FUZZ_CHECK(marker >= 0xE0 && marker <= 0xEF, "marker %02x", marker);
    }
  }

  void frame(const uint8_t* payload, size_t length) {
    has_frame_ = true;
    FUZZ_CHECK(length == 6 + 3 * expected_.components && payload[0] == 8, "a wrong SOF0");
    const size_t height = static_cast<size_t>(payload[1]) << 8 | payload[2];
    const size_t width = static_cast<size_t>(payload[3]) << 8 | payload[4];
    FUZZ_CHECK(width == expected_.width && height == expected_.height, "the file says %zu x %zu", width, height);
    FUZZ_CHECK(payload[5] == expected_.components, "the file has %u components", payload[5]);
    for (size_t c = 0; c < expected_.components; ++c) {
      const size_t factors = c > 0 || expected_.components == 1 ? 0x11 : expected_.horizontal << 4 | expected_.vertical;
      FUZZ_CHECK(payload[7 + 3 * c] == factors, "component %zu has sampling %02x", c, payload[7 + 3 * c]);
      const uint8_t* const table = tables_[payload[8 + 3 * c] & 3];
      FUZZ_CHECK(std::memcmp(table, expected_.tables[c > 0], 64) == 0, "component %zu has another table", c);
    }
  }

  void quantization(const uint8_t* payload, size_t length) {
    FUZZ_CHECK(length % 65 == 0, "a DQT segment of %zu bytes", length);
    for (const uint8_t* end = payload + length; payload < end; payload += 65) {
      FUZZ_CHECK(payload[0] < 4, "a DQT segment for table %02x", payload[0]);
      for (size_t k = 0; k < 64; ++k) tables_[payload[0]][kZigzag[k]] = payload[1 + k];
    }
  }

  void huffman(const uint8_t* payload, size_t length) {
    for (const uint8_t* end = payload + length; payload < end;) {
      FUZZ_CHECK(payload[0] >> 4 < 2 && (payload[0] & 15) < 2, "a DHT segment for table %02x", payload[0]);
      HuffmanTable& table = huffman_[payload[0] >> 4][payload[0] & 15];
      FUZZ_CHECK(end - payload > 17, "a DHT segment ends too early");
      std::memcpy(table.counts, payload + 1, 16);
      size_t symbols = 0;
      size_t codes = 0;  // of 16 bits; the one of all ones is reserved
      for (size_t i = 0; i < 16; ++i) {
        symbols += table.counts[i];
        codes += static_cast<size_t>(table.counts[i]) << (15 - i);
      }
      FUZZ_CHECK(symbols <= 256 && codes <= 0xFFFF, "a Huffman table with %zu symbols is over-full", symbols);
      FUZZ_CHECK(static_cast<size_t>(end - payload) >= 17 + symbols, "a DHT segment ends too early");
      std::memcpy(table.symbols, payload + 17, symbols);
      table.defined = true;
      payload += 17 + symbols;
    }
  }

  void scan(size_t at) {
    Bits bits(data_ + at, size_ - at);
    const bool gray = expected_.components == 1;
    const size_t horizontal = gray ? 1 : expected_.horizontal;
    const size_t vertical = gray ? 1 : expected_.vertical;
    const size_t columns = (expected_.width + 8 * horizontal - 1) / (8 * horizontal);
    const size_t rows = (expected_.height + 8 * vertical - 1) / (8 * vertical);
    FUZZ_CHECK(interval_ == std::min(expected_.restart_rows, rows) * columns, "an interval of %zu MCUs", interval_);
    for (size_t mcu = 0; mcu < columns * rows; ++mcu) {
      if (interval_ > 0 && mcu > 0 && mcu % interval_ == 0) {
        bits.restart(mcu / interval_ - 1);
        std::memset(previous_, 0, sizeof(previous_));
      }
      for (size_t c = 0; c < expected_.components; ++c) {
        for (size_t i = c == 0 ? horizontal * vertical : 1; i > 0; --i) block(&bits, c);
      }
    }
    bits.end();
  }

  void block(Bits* bits, size_t component) {
    const HuffmanTable& dc = huffman_[0][selector_[component] >> 4 & 1];
    const HuffmanTable& ac = huffman_[1][selector_[component] & 1];
    FUZZ_CHECK(dc.defined && ac.defined, "component %zu has no Huffman table", component);
    const unsigned size = bits->symbol(dc);
    FUZZ_CHECK(size <= 11, "a DC difference of %u bits", size);
    previous_[component] += extend(bits->bits(size), size);
    const int step = expected_.tables[component > 0][0];
    // 8 x (sample - 128) and half a step of rounding, with some room for the precision of the DCT.
    FUZZ_CHECK(std::abs(previous_[component]) * step <= 1024 + step / 2 + 8, "DC %d with step %d", previous_[component],
               step);
    for (size_t k = 1; k < 64; ++k) {
      const unsigned symbol = bits->symbol(ac);
      if (symbol == 0) break;
      k += symbol >> 4;
      const unsigned count = symbol & 15;
      FUZZ_CHECK(k < 64 && count <= 10 && (count > 0 || symbol == 0xF0), "AC symbol %02x at %zu", symbol, k);
      bits->bits(count);
    }
  }

  const uint8_t* data_;
  size_t size_;
  const Expected& expected_;
  bool has_frame_ = false;
  bool has_comment_ = false;
  bool has_jfif_ = false;
  bool has_exif_ = false;
  size_t segments_ = 0;  // of tables
  size_t scans_ = 0;
  size_t interval_ = 0;
  uint8_t tables_[4][64] = {};
  HuffmanTable huffman_[2][2];
  uint8_t selector_[3] = {};
  int previous_[3] = {};
};

}  // namespace

void check_file(const uint8_t* data, size_t size, const Expected& expected) { File(data, size, expected).check(); }

}  // namespace edgejpeg_fuzz
