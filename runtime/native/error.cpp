#include "error.h"

#include <cstdarg>
#include <cstdio>

namespace edgejpeg {
namespace {

thread_local char last_error[256] = "no error";

}  // namespace

edgejpeg_status fail(edgejpeg_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, sizeof(last_error), format, arguments);
  va_end(arguments);
  return status;
}

edgejpeg_status fail_null(const char* function, const char* argument) {
  return fail(EDGEJPEG_INVALID_ARGUMENT, "%s: %s is NULL", function, argument);
}

edgejpeg_status check_range(const char* name, long long value, long long low, long long high) {
  if (value >= low && value <= high) return EDGEJPEG_OK;
  return fail(EDGEJPEG_INVALID_ARGUMENT, "%s is %lld; it is an integer from %lld to %lld", name, value, low, high);
}

}  // namespace edgejpeg

const char* edgejpeg_last_error(void) { return edgejpeg::last_error; }
