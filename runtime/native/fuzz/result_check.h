// What a handle says about its last frame, against what it was told, and against the file.
#ifndef EDGEJPEG_FUZZ_RESULT_CHECK_H
#define EDGEJPEG_FUZZ_RESULT_CHECK_H

#include <cstdint>
#include <vector>

#include "edgejpeg.h"
#include "frame.h"
#include "settings.h"

namespace edgejpeg_fuzz {

// After a frame that was encoded.
void check_result(edgejpeg_encoder* encoder, const Settings& settings, const Frame& frame,
                  const std::vector<uint8_t>& file);

// After one that was not, and before the first.
void check_no_result(edgejpeg_encoder* encoder);

// Two handles that gave the same file say the same about it.
void check_same_result(edgejpeg_encoder* encoder, edgejpeg_encoder* other);

}  // namespace edgejpeg_fuzz

#endif  // EDGEJPEG_FUZZ_RESULT_CHECK_H
