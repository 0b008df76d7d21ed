// What went wrong, for edgejpeg_last_error: one line per thread.
#ifndef EDGEJPEG_ERROR_H_
#define EDGEJPEG_ERROR_H_

#include "edgejpeg.h"

namespace edgejpeg {

// Keep a message, and return `status`.
[[gnu::format(printf, 2, 3)]] edgejpeg_status fail(edgejpeg_status status, const char* format, ...);

edgejpeg_status fail_null(const char* function, const char* argument);

// EDGEJPEG_OK where low <= value <= high.
edgejpeg_status check_range(const char* name, long long value, long long low, long long high);

}  // namespace edgejpeg

#endif  // EDGEJPEG_ERROR_H_
