// Frames of all sizes, strides, formats and contents, in memory that ends where the last sample does.
#ifndef EDGEJPEG_FUZZ_FRAME_H
#define EDGEJPEG_FUZZ_FRAME_H

#include <memory>
#include <vector>

#include "edgejpeg.h"
#include "reader.h"

namespace edgejpeg_fuzz {

struct Frame {
  edgejpeg_image image = {};
  bool valid = false;  // whether the library must accept it
  size_t size = 0;
  std::unique_ptr<uint8_t[]> memory;

  size_t channels() const { return image.format == EDGEJPEG_LUMA ? 1 : 3; }
};

Frame read_frame(Reader* reader);

// The samples of a valid frame without gaps, red first, whatever its format and strides are.
std::vector<uint8_t> packed_samples(const Frame& frame);

}  // namespace edgejpeg_fuzz

#endif  // EDGEJPEG_FUZZ_FRAME_H
