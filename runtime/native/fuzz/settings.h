// What a handle has been told, in a model of its own, and the values for it.
#ifndef EDGEJPEG_FUZZ_SETTINGS_H
#define EDGEJPEG_FUZZ_SETTINGS_H

#include <cstddef>
#include <cstdint>
#include <vector>

#include "edgejpeg.h"
#include "frame.h"
#include "reader.h"

namespace edgejpeg_fuzz {

// Ends the program where a call returned another status, or failed without one line that says why.
void check_status(edgejpeg_status status, edgejpeg_status expected, const char* call);

struct DeadZone {
  bool given[2] = {};
  double thresholds[2][64] = {};

  const double* slot(size_t index) const { return given[index] ? thresholds[index] : nullptr; }
};

struct LadderLevel {
  uint8_t tables[2][64];
  bool has_chroma;
  DeadZone dead_zone;
  double rate;
};

// A call that fails changes nothing.
struct Settings {
  edgejpeg_options options = {};
  enum { kNone, kFixed, kDesigned, kLadder } mode = kNone;
  uint8_t luma[64] = {};
  uint8_t chroma[64] = {};
  bool has_chroma = false;  // of a ladder: at every level
  double sensitivity[3 * 64] = {};
  double luma_level = 0;
  double chroma_level = 0;
  int32_t q_max = 0;
  DeadZone dead_zone;
  std::vector<LadderLevel> levels;
  int32_t level = 0;
  bool has_slope = false;
  double slope = 0;
  size_t max_bytes = 0;
  double max_bits_per_pixel = 0;
  std::vector<uint8_t> comment;

  bool is_gray(const edgejpeg_image& image) const {
    return options.subsampling == EDGEJPEG_GRAY || image.format == EDGEJPEG_LUMA;
  }
  bool has_budget() const { return max_bytes > 0 || max_bits_per_pixel > 0; }
  // Without a budget, as much as there is.
  size_t budget(const edgejpeg_image& image) const;
  size_t max_comment() const;
  // In MCUs.
  int64_t restart_interval(const edgejpeg_image& image) const;
  // What encode must return; EDGEJPEG_BUDGET_NOT_MET may take the place of EDGEJPEG_OK where there is a budget.
  edgejpeg_status expected(const Frame& frame) const;
  // Whether statistics and errors are there after a frame.
  bool keeps_statistics() const;
  // To another handle, in another order than the fuzzer's.
  void apply(edgejpeg_encoder* encoder) const;
  edgejpeg_status apply_ladder(edgejpeg_encoder* encoder) const;
};

// These return whether the library must accept the value.
bool read_options(Reader* reader, edgejpeg_options* options);
bool read_table(Reader* reader, uint8_t* table);
bool read_dead_zone(Reader* reader, DeadZone* zone);
bool read_levels(Reader* reader, std::vector<LadderLevel>* levels);
// 0, or any other number there is.
double read_number(Reader* reader);

}  // namespace edgejpeg_fuzz

#endif  // EDGEJPEG_FUZZ_SETTINGS_H
