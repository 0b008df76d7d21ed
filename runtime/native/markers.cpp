#include "markers.h"

#include "quantise.h"

namespace edgejpeg {
namespace {

enum Marker : uint8_t {
  kSof0 = 0xC0,
  kSof2 = 0xC2,
  kDht = 0xC4,
  kRst0 = 0xD0,
  kSoi = 0xD8,
  kEoi = 0xD9,
  kSos = 0xDA,
  kDqt = 0xDB,
  kDri = 0xDD,
  kApp0 = 0xE0,
  kApp1 = 0xE1,
  kCom = 0xFE
};

// All segments but the comment: 4 DHT of at most 2 + 2 + 1 + 16 + 256, 2 DQT of 69, and less than 128 for the rest.
constexpr size_t kMaxHeaderBytes = 4 * 277 + 2 * 69 + 128;

void put_marker(Marker marker, ByteStream* stream) {
  stream->put(0xFF);
  stream->put(marker);
}

// The length counts its own two bytes.
void begin_segment(Marker marker, size_t payload, ByteStream* stream) {
  put_marker(marker, stream);
  stream->put16(payload + 2);
}

// TIFF in big-endian order with one directory of one entry [Exif 2.3, 4.5 and 4.6].
void put_orientation(uint8_t orientation, ByteStream* stream) {
  static const uint8_t kExif[] = {'E', 'x', 'i', 'f', 0, 0,  // the identifier
                                  'M', 'M', 0,   42,  0, 0,  // big-endian, TIFF
                                  0,   8,                    // the directory is 8 bytes behind "MM"
                                  0,   1,                    // one entry
                                  1,   18,  0,   3,   0, 0,  // tag 274, orientation; type 3, 16 bits
                                  0,   1,   0};              // one value, and its upper byte
  static const uint8_t kRest[] = {0, 0, 0, 0, 0, 0};         // unused half of the value; no further directory
  begin_segment(kApp1, sizeof(kExif) + 1 + sizeof(kRest), stream);
  stream->put(kExif, sizeof(kExif));
  stream->put(orientation);
  stream->put(kRest, sizeof(kRest));
}

void put_quantization_tables(const Header& header, unsigned slots, ByteStream* stream) {
  if (header.lean) begin_segment(kDqt, slots * size_t{65}, stream);
  for (unsigned slot = 0; slot < slots; ++slot) {
    if (!header.lean) begin_segment(kDqt, 65, stream);
    stream->put(static_cast<uint8_t>(slot));
    for (const uint8_t position : kZigzag) stream->put(header.quant[slot][position]);
  }
}

void put_frame_header(const Geometry& geometry, bool progressive, ByteStream* stream) {
  begin_segment(progressive ? kSof2 : kSof0, 6 + 3 * geometry.components, stream);
  stream->put(8);  // bits per sample
  stream->put16(geometry.height);
  stream->put16(geometry.width);
  stream->put(static_cast<uint8_t>(geometry.components));
  for (size_t c = 0; c < geometry.components; ++c) {
    const Component& component = geometry.component[c];
    stream->put(static_cast<uint8_t>(c + 1));
    stream->put(static_cast<uint8_t>(component.horizontal << 4 | component.vertical));
    stream->put(static_cast<uint8_t>(component.table));
  }
}

void put_huffman_table(const HuffmanTable& table, unsigned ac, unsigned slot, ByteStream* stream) {
  stream->put(static_cast<uint8_t>(ac << 4 | slot));
  stream->put(table.counts, 16);
  stream->put(table.symbols, table.size);
}

void put_huffman_tables(const Header& header, unsigned slots, ByteStream* stream) {
  size_t size = 0;
  for (unsigned slot = 0; slot < slots; ++slot) size += 34 + header.dc[slot]->size + header.ac[slot]->size;
  if (header.lean) begin_segment(kDht, size, stream);
  for (unsigned slot = 0; slot < slots; ++slot) {
    for (unsigned ac = 0; ac < 2; ++ac) {
      const HuffmanTable& table = ac == 0 ? *header.dc[slot] : *header.ac[slot];
      if (!header.lean) begin_segment(kDht, 17 + table.size, stream);
      put_huffman_table(table, ac, slot, stream);
    }
  }
}

void put_scan_header(const ScanHeader& scan, ByteStream* stream) {
  begin_segment(kSos, 4 + 2 * scan.components, stream);
  stream->put(static_cast<uint8_t>(scan.components));
  for (size_t c = scan.first_component; c < scan.first_component + scan.components; ++c) {
    stream->put(static_cast<uint8_t>(c + 1));
    stream->put(c == 0 ? 0x00 : 0x11);
  }
  stream->put(scan.first);
  stream->put(scan.last);
  stream->put(static_cast<uint8_t>(scan.high << 4 | scan.low));
}

}  // namespace

bool write_header(const Header& header, ByteStream* stream) {
  static const uint8_t kJfif[14] = {'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0};  // 1.01, aspect ratio 1:1
  if (!stream->reserve(kMaxHeaderBytes + header.comment_size)) return false;
  const unsigned slots = header.geometry->components == 1 ? 1 : 2;
  put_marker(kSoi, stream);
  if (!header.lean) {
    begin_segment(kApp0, sizeof(kJfif), stream);
    stream->put(kJfif, sizeof(kJfif));
  }
  if (header.orientation != 0) put_orientation(header.orientation, stream);
  if (header.comment_size > 0) {
    begin_segment(kCom, header.comment_size, stream);
    stream->put(header.comment, header.comment_size);
  }
  put_quantization_tables(header, slots, stream);
  put_frame_header(*header.geometry, header.progressive, stream);
  if (header.restart_interval > 0) {
    begin_segment(kDri, 2, stream);
    stream->put16(header.restart_interval);
  }
  if (header.progressive) return true;
  put_huffman_tables(header, slots, stream);
  put_scan_header({0, header.geometry->components, 0, 63, 0, 0}, stream);
  return true;
}

bool write_scan_header(const ScanHeader& scan, const HuffmanTable* const tables[2], ByteStream* stream) {
  if (!stream->reserve(kMaxHeaderBytes)) return false;
  size_t size = 0;
  for (unsigned slot = 0; slot < 2; ++slot) size += tables[slot] != nullptr ? 17 + tables[slot]->size : 0;
  begin_segment(kDht, size, stream);
  for (unsigned slot = 0; slot < 2; ++slot) {
    if (tables[slot] != nullptr) put_huffman_table(*tables[slot], scan.first == 0 ? 0 : 1, slot, stream);
  }
  put_scan_header(scan, stream);
  return true;
}

void put_restart(size_t index, ByteStream* stream) { put_marker(static_cast<Marker>(kRst0 + index % 8), stream); }

bool write_end(ByteStream* stream) {
  if (!stream->reserve(2)) return false;
  put_marker(kEoi, stream);
  return true;
}

}  // namespace edgejpeg
