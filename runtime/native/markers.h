// The marker segments of a baseline JFIF file [ITU-T T.81, annex B].
#ifndef EDGEJPEG_MARKERS_H_
#define EDGEJPEG_MARKERS_H_

#include <cstddef>
#include <cstdint>

#include "geometry.h"
#include "huffman.h"
#include "stream.h"

namespace edgejpeg {

struct Header {
  const Geometry* geometry;
  const char* comment;
  size_t comment_size;        // 0: no COM segment
  const uint8_t* quant[2];    // row-major; the second for colour only
  const HuffmanTable* dc[2];  // the second for colour only
  const HuffmanTable* ac[2];
};

// SOI, APP0, COM, DQT, SOF0, DHT, SOS. False when memory is short.
[[nodiscard]] bool write_header(const Header& header, ByteStream* stream);

// EOI.
[[nodiscard]] bool write_end(ByteStream* stream);

}  // namespace edgejpeg

#endif  // EDGEJPEG_MARKERS_H_
