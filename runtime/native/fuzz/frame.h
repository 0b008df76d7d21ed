// Frames of all sizes, strides, formats and contents, in memory that ends where the last sample does.
#ifndef EDGEJPEG_FUZZ_FRAME_H
#define EDGEJPEG_FUZZ_FRAME_H

#include <memory>
#include <vector>

#include "edgejpeg.h"
#include "reader.h"

namespace edgejpeg_fuzz {

// Memory of its own for every plane, so that a sanitizer sees each of their ends.
struct Memory {
  std::unique_ptr<uint8_t[]> bytes;
  size_t size = 0;

  bool operator==(const std::vector<uint8_t>& other) const;
  std::vector<uint8_t> copy() const { return std::vector<uint8_t>(bytes.get(), bytes.get() + size); }
};

struct Frame {
  edgejpeg_image image = {};
  bool valid = false;  // whether the library must accept it
  Memory planes[3];
};

Frame read_frame(Reader* reader);

// The same picture, given in another way: without strides, red for blue, planes for interleaved samples.
struct OtherFrame {
  edgejpeg_image image = {};
  std::vector<uint8_t> planes[3];
};

// `frame` is valid. The result must not be moved: its image points into it.
void rearrange(const Frame& frame, OtherFrame* other);

}  // namespace edgejpeg_fuzz

#endif  // EDGEJPEG_FUZZ_FRAME_H
