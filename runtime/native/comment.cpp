#include "comment.h"

#include <algorithm>
#include <cstdio>

namespace edgejpeg {

size_t write_control_text(const char* name, double value, char* text) {
  const int written = std::snprintf(text, kMaxControlText, " %s=%.6g", name, value);
  const size_t size = std::min(static_cast<size_t>(std::max(written, 0)), kMaxControlText - 1);
  // The locale's decimal separator, which may be several bytes, becomes a point.
  size_t kept = 0;
  for (size_t i = 0; i < size; ++i) {
    const char c = text[i];
    const bool is_plain = c > ' ' && c < 127 && c != ',';
    if (is_plain || i == 0) {
      text[kept++] = c;
    } else if (text[kept - 1] != '.') {
      text[kept++] = '.';
    }
  }
  return kept;
}

}  // namespace edgejpeg
