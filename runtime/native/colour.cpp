#include "colour.h"

#include <algorithm>
#include <cstring>

namespace edgejpeg {
namespace {

constexpr size_t kMaxPixelBytes = 4;

// Pixels are fetched this many bytes before they are needed, at least: a processor that finds out by itself, row after
// row, waits for them a third of the time.
constexpr size_t kFetchAhead = 3072;

// Row `y` of the frame, or the last one below it.
const uint8_t* row_of(const edgejpeg_image& image, size_t y) {
  const size_t row = std::min(y, static_cast<size_t>(image.height) - 1);
  return image.pixels + static_cast<ptrdiff_t>(row) * image.row_stride;
}

// Whether the kernels take the pixels where they lie.
bool is_packed(const edgejpeg_image& image) { return image.pixel_stride == 3 || image.pixel_stride == 4; }

// Bytes of a pixel as the kernels get it: those of the image, or three in a copy.
size_t pixel_bytes(const edgejpeg_image& image) { return image.pixel_stride == 4 ? 4 : 3; }

// A row as pixels that the kernels take: where it lies, or copied.
const uint8_t* packed_row(const edgejpeg_image& image, size_t y, Buffer<uint8_t>* copy) {
  const uint8_t* in = row_of(image, y);
  if (is_packed(image)) return in;
  uint8_t* out = copy->data();
  for (ptrdiff_t x = 0; x < image.width; ++x, out += 3) {
    // No step behind the last pixel: with a stride that no pixel needs the pointer would wrap around.
    std::memcpy(out, in + x * image.pixel_stride, 3);
  }
  return copy->data();
}

// The group of pixels that starts at `x`, in which the row ends: the last pixel is replicated. Of that one only the
// three bytes that are a sample are read.
void extend_group(const uint8_t* row, size_t bytes, size_t width, size_t x, uint8_t* group) {
  const size_t left = width - x;
  std::memcpy(group, row + bytes * x, bytes * (left - 1) + 3);
  const uint8_t* const last = group + bytes * (left - 1);
  for (size_t i = left; i < kPixelGroup; ++i) std::memcpy(group + bytes * i, last, 3);
}

// Calls convert(pixels of each row, ahead, x, count) for the part of the rows that is there as whole groups, and then
// for the group that must be extended. A fourth byte may be missing behind the last pixel.
template <size_t rows, typename Convert>
void for_each_part(const uint8_t* const (&row)[rows], uintptr_t ahead, size_t bytes, size_t width, Convert convert) {
  const size_t readable = bytes == 3 ? width : width - 1;
  const size_t whole = readable / kPixelGroup * kPixelGroup;
  if (whole > 0) convert(row, ahead, size_t{0}, whole);
  if (whole == width) return;
  uint8_t groups[rows][kMaxPixelBytes * kPixelGroup] = {};
  const uint8_t* extended[rows];
  for (size_t i = 0; i < rows; ++i) {
    extend_group(row[i], bytes, width, whole, groups[i]);
    extended[i] = groups[i];
  }
  convert(extended, uintptr_t{0}, whole, kPixelGroup);
}

}  // namespace

bool Strip::reserve(const Geometry& geometry) {
  for (Buffer<uint8_t>& row : packed) {
    if (!row.reserve(3 * geometry.width)) return false;
  }
  for (Buffer<int8_t>& row : narrow) {
    if (!row.reserve(stride(geometry, 0) / 2)) return false;
  }
  if (!samples[0].reserve(geometry.mcu_height() * stride(geometry, 0))) return false;
  for (size_t c = 1; c < geometry.components; ++c) {
    if (!samples[c].reserve(8 * stride(geometry, c))) return false;
  }
  return true;
}

void convert_mcu_row(const edgejpeg_image& image, const Geometry& geometry, const Backend& backend, size_t mcu_row,
                     size_t next_mcu_row, Strip* strip) {
  const ColourKernels& kernels = *backend.colour;
  if (image.format >= EDGEJPEG_LUMA) return convert_yuv_mcu_row(image, geometry, kernels, mcu_row, next_mcu_row, strip);
  const size_t width = geometry.width;
  const size_t bytes = pixel_bytes(image);
  const PixelKernels& pixels = kernels.pixels[bytes - 3][image.format == EDGEJPEG_BGR ? 1 : 0];
  const size_t stride = Strip::stride(geometry, 0);
  const size_t vertical = geometry.component[0].vertical;
  const size_t lines_ahead = std::min(divide_up(kFetchAhead, bytes * width * vertical), size_t{8});
  for (size_t line = 0; line < 8; ++line) {
    const size_t y = mcu_row * geometry.mcu_height() + line * vertical;
    int8_t* const luma = strip->samples[0].data() + line * vertical * stride;
    const size_t place = line + lines_ahead;
    const size_t y_ahead = (place < 8 ? mcu_row : next_mcu_row) * geometry.mcu_height() + place % 8 * vertical;
    // From the pixels to those that are fetched meanwhile: where they lie, so that they are not those of a copy.
    const uintptr_t ahead = is_packed(image) ? reinterpret_cast<uintptr_t>(row_of(image, y_ahead)) -
                                                   reinterpret_cast<uintptr_t>(row_of(image, y))
                                             : 0;
    const uint8_t* const first[1] = {packed_row(image, y, &strip->packed[0])};
    if (geometry.components == 1) {
      for_each_part(first, ahead, bytes, width,
                    [&](const uint8_t* const(&row)[1], uintptr_t fetched, size_t x, size_t count) {
                      pixels.luma(row[0], fetched, count, luma + x);
                    });
      continue;
    }
    const size_t chroma_stride = Strip::stride(geometry, 1);
    int8_t* const cb = strip->samples[1].data() + line * chroma_stride;
    int8_t* const cr = strip->samples[2].data() + line * chroma_stride;
    if (vertical == 2) {
      const uint8_t* const both[2] = {first[0], packed_row(image, y + 1, &strip->packed[1])};
      for_each_part(both, ahead, bytes, width,
                    [&](const uint8_t* const(&rows)[2], uintptr_t fetched, size_t x, size_t count) {
                      int8_t* const lumas[2] = {luma + x, luma + stride + x};
                      pixels.convert_420(rows, fetched, count, lumas, cb + x / 2, cr + x / 2);
                    });
      continue;
    }
    const bool halved = geometry.component[0].horizontal == 2;
    const ChromaKernel convert = halved ? pixels.convert_422 : pixels.convert_444;
    for_each_part(first, ahead, bytes, width,
                  [&](const uint8_t* const(&row)[1], uintptr_t fetched, size_t x, size_t count) {
                    const size_t cell = halved ? x / 2 : x;
                    convert(row[0], fetched, count, luma + x, cb + cell, cr + cell);
                  });
  }
}

}  // namespace edgejpeg
