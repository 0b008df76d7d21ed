#include "segments.h"

#include <cstring>

namespace edgejpeg {
namespace {

enum Marker : uint8_t {
  kSof0 = 0xC0,
  kSof2 = 0xC2,
  kDht = 0xC4,
  kRst0 = 0xD0,
  kRst7 = 0xD7,
  kSoi = 0xD8,
  kEoi = 0xD9,
  kSos = 0xDA,
  kDqt = 0xDB,
  kApp0 = 0xE0,
  kApp15 = 0xEF,
  kCom = 0xFE
};

// The next marker behind entropy-coded data, in which stuffed bytes and restart markers stand.
const uint8_t* next_marker(const uint8_t* at, const uint8_t* end) {
  for (; at < end; at += 2) {
    at = static_cast<const uint8_t*>(std::memchr(at, 0xFF, static_cast<size_t>(end - at)));
    if (at == nullptr) return end;
    if (at[1] != 0 && (at[1] < kRst0 || at[1] > kRst7)) return at;
  }
  return end;
}

size_t* counter(uint8_t marker, edgejpeg_result* result) {
  if (marker >= kApp0 && marker <= kApp15) return &result->bytes_app;
  switch (marker) {
    case kCom:
      return &result->bytes_comment;
    case kDqt:
      return &result->bytes_quantization;
    case kSof0:
    case kSof2:
      return &result->bytes_frame;
    case kDht:
      return &result->bytes_huffman;
    case kSos:
      return &result->bytes_scan_headers;
    default:
      return &result->bytes_other;
  }
}

}  // namespace

void measure_segments(const uint8_t* file, size_t size, edgejpeg_result* result) {
  const uint8_t* const end = file + size - 2;  // EOI
  const uint8_t* at = file + 2;                // behind SOI
  result->bytes = size;
  result->bytes_app = result->bytes_comment = result->bytes_quantization = result->bytes_frame = 0;
  result->bytes_huffman = result->bytes_scan_headers = result->bytes_entropy_coded = 0;
  result->bytes_other = 4;
  bool one_scan = false;
  while (at < end) {
    const uint8_t marker = at[1];
    const size_t length = size_t{2} + (static_cast<size_t>(at[2]) << 8 | at[3]);
    *counter(marker, result) += length;
    at += length;
    if (marker == kSof0) one_scan = true;
    if (marker != kSos) continue;
    const uint8_t* const next = one_scan ? end : next_marker(at, end);
    result->bytes_entropy_coded += static_cast<size_t>(next - at);
    at = next;
  }
}

}  // namespace edgejpeg
