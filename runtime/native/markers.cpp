#include "markers.h"

#include "quantise.h"

namespace edgejpeg {
namespace {

enum Marker : uint8_t {
  kSof0 = 0xC0,
  kDht = 0xC4,
  kSoi = 0xD8,
  kEoi = 0xD9,
  kSos = 0xDA,
  kDqt = 0xDB,
  kApp0 = 0xE0,
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

void put_quantization_table(const uint8_t* table, uint8_t slot, ByteStream* stream) {
  begin_segment(kDqt, 65, stream);
  stream->put(slot);
  for (const uint8_t position : kZigzag) stream->put(table[position]);
}

void put_frame_header(const Geometry& geometry, ByteStream* stream) {
  begin_segment(kSof0, 6 + 3 * geometry.components, stream);
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
  begin_segment(kDht, 17 + table.size, stream);
  stream->put(static_cast<uint8_t>(ac << 4 | slot));
  stream->put(table.counts, 16);
  stream->put(table.symbols, table.size);
}

void put_scan_header(const Geometry& geometry, ByteStream* stream) {
  begin_segment(kSos, 4 + 2 * geometry.components, stream);
  stream->put(static_cast<uint8_t>(geometry.components));
  for (size_t c = 0; c < geometry.components; ++c) {
    stream->put(static_cast<uint8_t>(c + 1));
    stream->put(static_cast<uint8_t>(geometry.component[c].table * 0x11));
  }
  stream->put(0);  // first and last frequency
  stream->put(63);
  stream->put(0);  // no successive approximation
}

}  // namespace

bool write_header(const Header& header, ByteStream* stream) {
  static const uint8_t kJfif[14] = {'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0};  // 1.01, aspect ratio 1:1
  if (!stream->reserve(kMaxHeaderBytes + header.comment_size)) return false;
  const unsigned slots = header.geometry->components == 1 ? 1 : 2;
  put_marker(kSoi, stream);
  begin_segment(kApp0, sizeof(kJfif), stream);
  stream->put(kJfif, sizeof(kJfif));
  if (header.comment_size > 0) {
    begin_segment(kCom, header.comment_size, stream);
    stream->put(header.comment, header.comment_size);
  }
  for (unsigned slot = 0; slot < slots; ++slot) {
    put_quantization_table(header.quant[slot], static_cast<uint8_t>(slot), stream);
  }
  put_frame_header(*header.geometry, stream);
  for (unsigned slot = 0; slot < slots; ++slot) {
    put_huffman_table(*header.dc[slot], 0, slot, stream);
    put_huffman_table(*header.ac[slot], 1, slot, stream);
  }
  put_scan_header(*header.geometry, stream);
  return true;
}

bool write_end(ByteStream* stream) {
  if (!stream->reserve(2)) return false;
  put_marker(kEoi, stream);
  return true;
}

}  // namespace edgejpeg
