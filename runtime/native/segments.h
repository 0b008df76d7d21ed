// How many bytes of a file each kind of segment takes.
#ifndef EDGEJPEG_SEGMENTS_H_
#define EDGEJPEG_SEGMENTS_H_

#include <cstddef>
#include <cstdint>

#include "edgejpeg.h"

namespace edgejpeg {

// Sets `bytes` and all `bytes_...` of the result from a complete file that this library wrote.
void measure_segments(const uint8_t* file, size_t size, edgejpeg_result* result);

}  // namespace edgejpeg

#endif  // EDGEJPEG_SEGMENTS_H_
