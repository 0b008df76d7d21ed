#include "settings.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>

#include "check.h"

namespace edgejpeg_fuzz {
namespace {

// Kinds of files, and where their Huffman tables come from; allowed ones.
void read_file_options(Reader* reader, edgejpeg_options* options) {
  const size_t bits = reader->choice(256);
  options->container = bits & 1;
  options->progressive = bits >> 1 & 1;
  options->exact_huffman = bits >> 2 & 1;
  options->sampled_statistics = bits >> 3 & 1;
  if (options->progressive == 0) {
    options->standard_huffman = bits >> 4 & 1;
    options->restart_rows = (bits >> 5 & 1) != 0 ? reader->range(0, EDGEJPEG_MAX_SIZE) >> reader->choice(17) : 0;
  }
  options->orientation = (bits >> 6 & 1) != 0 ? static_cast<int32_t>(reader->choice(9)) : 0;
}

// How levels are found, and what is kept and said about them. Returns whether the weight is allowed.
bool read_level_options(Reader* reader, edgejpeg_options* options) {
  const size_t bits = reader->choice(256);
  constexpr int32_t kQuantization[] = {EDGEJPEG_ROUND, EDGEJPEG_ROUND, EDGEJPEG_TRIM, EDGEJPEG_TRELLIS};
  options->quantization = kQuantization[bits & 3];
  options->keep_statistics = bits >> 2 & 1;
  options->timing = bits >> 3 & 1;
  options->comment_control = bits >> 4 & 1;
  if (bits >> 5 == 7) options->trellis_weight = read_number(reader);
  if (bits >> 5 == 6) options->trellis_weight = reader->range(0, 1000) / 100.0;
  return std::isfinite(options->trellis_weight) && options->trellis_weight >= 0;
}

}  // namespace

void check_status(edgejpeg_status status, edgejpeg_status expected, const char* call) {
  FUZZ_CHECK(status >= EDGEJPEG_OK && status <= EDGEJPEG_BUDGET_NOT_MET, "%s returned %d", call,
             static_cast<int>(status));
  FUZZ_CHECK(status == expected, "%s returned %d, not %d; last error: %s", call, static_cast<int>(status),
             static_cast<int>(expected), edgejpeg_last_error());
  if (status == EDGEJPEG_OK) return;
  const char* const message = edgejpeg_last_error();
  FUZZ_CHECK(message != nullptr && message[0] != '\0' && std::strchr(message, '\n') == nullptr, "%s: no message", call);
}

size_t Settings::budget(const edgejpeg_image& image) const {
  size_t bytes = max_bytes > 0 ? max_bytes : std::numeric_limits<size_t>::max();
  if (max_bits_per_pixel > 0) {
    const double limit = max_bits_per_pixel * image.width * image.height / 8;
    if (limit < 1e18) bytes = std::min(bytes, static_cast<size_t>(limit));
  }
  return bytes;
}

size_t Settings::max_comment() const { return EDGEJPEG_MAX_COMMENT - (options.comment_control != 0 ? 32 : 0); }

int64_t Settings::restart_interval(const edgejpeg_image& image) const {
  const bool gray = is_gray(image);
  const int64_t width = gray || options.subsampling == EDGEJPEG_444 ? 8 : 16;
  const int64_t height = gray || options.subsampling != EDGEJPEG_420 ? 8 : 16;
  const int64_t rows = (image.height + height - 1) / height;
  return std::min<int64_t>(options.restart_rows, rows) * ((image.width + width - 1) / width);
}

edgejpeg_status Settings::expected(const Frame& frame) const {
  if (!frame.valid) return EDGEJPEG_INVALID_ARGUMENT;
  if (mode == kNone || (mode != kDesigned && !has_chroma && !is_gray(frame.image))) return EDGEJPEG_NOT_READY;
  return restart_interval(frame.image) > EDGEJPEG_MAX_RESTART_INTERVAL ? EDGEJPEG_INVALID_ARGUMENT : EDGEJPEG_OK;
}

bool Settings::keeps_statistics() const {
  return mode == kDesigned || has_budget() || options.quantization != EDGEJPEG_ROUND || options.keep_statistics != 0;
}

void Settings::apply(edgejpeg_encoder* encoder) const {
  check_status(edgejpeg_encoder_set_budget(encoder, max_bytes, max_bits_per_pixel), EDGEJPEG_OK, "set_budget");
  const char* const text = reinterpret_cast<const char*>(comment.data());
  check_status(edgejpeg_encoder_set_comment(encoder, text, comment.size()), EDGEJPEG_OK, "set_comment");
  check_status(edgejpeg_encoder_set_dead_zone(encoder, dead_zone.slot(0), dead_zone.slot(1)), EDGEJPEG_OK,
               "set_dead_zone");
  if (mode == kFixed) {
    check_status(edgejpeg_encoder_set_tables(encoder, luma, has_chroma ? chroma : nullptr), EDGEJPEG_OK, "set_tables");
  } else if (mode == kDesigned) {
    check_status(edgejpeg_encoder_set_design(encoder, sensitivity, luma_level, chroma_level, q_max), EDGEJPEG_OK,
                 "set_design");
  } else if (mode == kLadder) {
    check_status(apply_ladder(encoder), EDGEJPEG_OK, "set_ladder");
    if (has_slope) check_status(edgejpeg_encoder_set_slope(encoder, slope), EDGEJPEG_OK, "set_slope");
  }
}

edgejpeg_status Settings::apply_ladder(edgejpeg_encoder* encoder) const {
  std::vector<edgejpeg_level> raw;
  for (const LadderLevel& entry : levels) {
    raw.push_back({entry.tables[0], entry.has_chroma ? entry.tables[1] : nullptr, entry.dead_zone.slot(0),
                   entry.dead_zone.slot(1), entry.rate});
  }
  return edgejpeg_encoder_set_ladder(encoder, raw.data(), static_cast<int32_t>(raw.size()), level);
}

bool read_options(Reader* reader, edgejpeg_options* options) {
  options->subsampling = static_cast<int32_t>(reader->choice(4));
  options->effort = static_cast<int32_t>(reader->choice(2));
  constexpr int32_t kThreads[] = {1, 2, 3, 4, 7, 1, 2, EDGEJPEG_MAX_THREADS};
  const size_t byte = reader->choice(256);
  const size_t threads = byte % 64;
  options->threads = kThreads[threads < 8 ? threads : threads % 7];
  if (byte >= 64) read_file_options(reader, options);
  bool valid = byte < 128 || read_level_options(reader, options);
  if (reader->once_in(16)) {
    constexpr int32_t kWrong[] = {-1, EDGEJPEG_MAX_THREADS + 1, INT32_MAX, INT32_MIN};
    const int32_t wrong = kWrong[reader->choice(std::size(kWrong))];
    int32_t* const fields[] = {&options->threads,        &options->effort,          &options->subsampling,
                               &options->container,      &options->progressive,     &options->orientation,
                               &options->quantization,   &options->keep_statistics, &options->timing,
                               &options->comment_control};
    *fields[reader->choice(std::size(fields))] = wrong;
    valid = false;
  }
  return valid;
}

bool read_table(Reader* reader, uint8_t* table) {
  const size_t kind = reader->choice(6);
  Noise noise(reader->any<uint16_t>());
  bool valid = true;
  for (size_t i = 0; i < 64; ++i) {
    const size_t value = kind == 0   ? 1
                         : kind == 1 ? 255
                         : kind == 2 ? reader->any<uint8_t>()
                         : kind == 3 ? 1 + noise.next() % 255
                                     : 1 + noise.next() % (2 + 2 * i);
    table[i] = static_cast<uint8_t>(value);
    valid = valid && value > 0;
  }
  return valid;
}

bool read_dead_zone(Reader* reader, DeadZone* zone) {
  bool valid = true;
  const size_t kinds = reader->choice(256);
  Noise noise(reader->any<uint16_t>());
  for (size_t slot = 0; slot < 2; ++slot) {
    const size_t kind = kinds >> 4 * slot & 3;
    zone->given[slot] = kind > 0;
    for (size_t i = 1; i < 64; ++i) {
      zone->thresholds[slot][i] = kind == 1 ? 0.5 : kind == 2 ? 1 : 0.5 + (noise.next() % 1024) / 2048.0;
    }
    zone->thresholds[slot][0] = 0.5;
  }
  if (reader->once_in(16)) {
    constexpr double kWrong[] = {0.4999, 1.0001, -0.5, NAN, INFINITY};
    const size_t slot = reader->choice(2);
    zone->thresholds[slot][reader->choice(64)] = kWrong[reader->choice(std::size(kWrong))];
    valid = !zone->given[slot];
  } else if (reader->once_in(16)) {  // DC is rounded
    zone->thresholds[0][0] = 0.75;
    valid = !zone->given[0];
  }
  return valid;
}

bool read_levels(Reader* reader, std::vector<LadderLevel>* levels) {
  levels->resize(1 + reader->choice(EDGEJPEG_MAX_LEVELS));
  bool valid = true;
  const bool has_chroma = !reader->once_in(8);
  const bool ordered = !reader->once_in(4);  // else any tables, whose sizes do not rise
  double rate = std::pow(10.0, reader->range(-300, 200) / 100.0);
  uint8_t base[2][64];
  for (uint8_t* table : {base[0], base[1]}) read_table(reader, table);
  for (size_t i = 0; i < levels->size(); ++i) {
    LadderLevel& level = (*levels)[i];
    level.has_chroma = has_chroma;
    level.rate = rate;
    rate *= 1.01 + static_cast<double>(reader->choice(64)) / 32;
    const double scale = std::exp2(2.0 - static_cast<double>(i) / 3);
    for (size_t slot = 0; slot < 2; ++slot) {
      for (size_t k = 0; k < 64 && ordered; ++k) {
        level.tables[slot][k] = static_cast<uint8_t>(std::clamp(std::floor(base[slot][k] * scale + 0.5), 1.0, 255.0));
      }
      if (!ordered) valid = (read_table(reader, level.tables[slot]) || (slot == 1 && !has_chroma)) && valid;
    }
    if (reader->once_in(4)) valid = read_dead_zone(reader, &level.dead_zone) && valid;
  }
  if (reader->once_in(16)) {
    constexpr double kWrong[] = {0, -1, NAN, INFINITY};
    (*levels)[reader->choice(levels->size())].rate = kWrong[reader->choice(std::size(kWrong))];
    valid = false;
  }
  return valid;
}

double read_number(Reader* reader) {
  constexpr double kEdges[] = {0,        1,       -0.0, 5e-324, DBL_MIN, DBL_MAX,
                               INFINITY, -1e-300, NAN,  1e-160, 1e160,   std::numeric_limits<double>::epsilon()};
  if (reader->once_in(4)) return kEdges[reader->choice(std::size(kEdges))];
  if (reader->once_in(16)) return reader->any<double>();
  return std::pow(10.0, reader->range(-3000, 3000) / (reader->once_in(4) ? 10.0 : 1000.0));
}

}  // namespace edgejpeg_fuzz
