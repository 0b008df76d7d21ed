// What a file's comment says about the choice that was made for its frame.
#ifndef EDGEJPEG_COMMENT_H_
#define EDGEJPEG_COMMENT_H_

#include <cstddef>

namespace edgejpeg {

constexpr size_t kMaxControlText = 32;

// " name=value" with six significant digits, as %g writes them, whatever the locale. Returns the length.
size_t write_control_text(const char* name, double value, char* text);

}  // namespace edgejpeg

#endif  // EDGEJPEG_COMMENT_H_
