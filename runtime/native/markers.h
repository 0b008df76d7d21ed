// The marker segments of a file [ITU-T T.81, annex B; JFIF 1.01; Exif 2.3].
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
  bool lean;            // no APP0, and the tables of a kind in one segment
  bool progressive;     // SOF2, and neither DHT nor SOS, which come with every scan
  uint8_t orientation;  // 0: no APP1
  const char* comment;
  size_t comment_size;        // 0: no COM segment
  size_t restart_interval;    // in MCUs; 0: no DRI segment
  const uint8_t* quant[2];    // row-major; the second for colour only
  const HuffmanTable* dc[2];  // the second for colour only
  const HuffmanTable* ac[2];
};

// SOI, APP0, APP1, COM, DQT, SOF, DRI, DHT, SOS. False when memory is short.
[[nodiscard]] bool write_header(const Header& header, ByteStream* stream);

// A scan of a progressive file [G.1.1]: some components and a band of frequencies in zigzag order.
struct ScanHeader {
  size_t first_component;
  size_t components;
  uint8_t first;  // frequency
  uint8_t last;
  uint8_t high;  // the bit above the lowest that earlier scans gave, 0 for a first scan
  uint8_t low;   // the lowest bit that this scan gives
};

// DHT with one table for every slot that the scan uses, if it is not null, and SOS. `tables`: by slot.
[[nodiscard]] bool write_scan_header(const ScanHeader& scan, const HuffmanTable* const tables[2], ByteStream* stream);

// Between two restart intervals: RST0 to RST7 in turn.
void put_restart(size_t index, ByteStream* stream);

// EOI.
[[nodiscard]] bool write_end(ByteStream* stream);

}  // namespace edgejpeg

#endif  // EDGEJPEG_MARKERS_H_
