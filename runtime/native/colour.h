// From pixels to the level-shifted samples of one row of MCUs: formats, strides and edges. The arithmetic is the back
// end's.
#ifndef EDGEJPEG_COLOUR_H_
#define EDGEJPEG_COLOUR_H_

#include <cstddef>
#include <cstdint>

#include "backend.h"
#include "buffer.h"
#include "edgejpeg.h"
#include "geometry.h"

namespace edgejpeg {

// The samples (-128..127) of one row of MCUs, padded by replication, and the memory to make them. Small enough to stay
// in a processor's cache.
struct Strip {
  Buffer<uint8_t> packed[2];  // rows whose pixels were not three or four adjacent bytes apart
  Buffer<int8_t> narrow[2];   // chroma of half the width, before it is replicated
  Buffer<int8_t> samples[3];

  [[nodiscard]] bool reserve(const Geometry& geometry);
  // Samples from a row to the next: whole groups of pixels.
  static size_t stride(const Geometry& geometry, size_t component) {
    const size_t luma = divide_up(geometry.padded_width(), kPixelGroup) * kPixelGroup;
    return component == 0 ? luma : luma / geometry.component[0].horizontal;
  }
};

// `next_mcu_row`: the one that will probably be converted next, here; its pixels are fetched meanwhile.
void convert_mcu_row(const edgejpeg_image& image, const Geometry& geometry, const Backend& backend, size_t mcu_row,
                     size_t next_mcu_row, Strip* strip);

// The same of the formats that are Y, Cb and Cr already, and of LUMA (yuv.cpp).
void convert_yuv_mcu_row(const edgejpeg_image& image, const Geometry& geometry, const ColourKernels& kernels,
                         size_t mcu_row, size_t next_mcu_row, Strip* strip);

}  // namespace edgejpeg

#endif  // EDGEJPEG_COLOUR_H_
