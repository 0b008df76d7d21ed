#include "result_check.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "check.h"
#include "file_check.h"

namespace edgejpeg_fuzz {
namespace {

// Of what a result may be asked for; the rest depends on these.
struct Answers {
  uint8_t tables[2][64];
  edgejpeg_result result;
  edgejpeg_statistics statistics;
  double errors[3];
  edgejpeg_status measured;
  edgejpeg_status summed;

  explicit Answers(edgejpeg_encoder* encoder) : result(), statistics(), errors() {
    check_status(edgejpeg_encoder_tables(encoder, tables[0], tables[1]), EDGEJPEG_OK, "tables");
    check_status(edgejpeg_encoder_result(encoder, &result), EDGEJPEG_OK, "result");
    measured = edgejpeg_encoder_statistics(encoder, &statistics);
    summed = edgejpeg_encoder_swe(encoder, errors);
  }
};

bool is_near(double a, double b) { return a == b || std::abs(a - b) <= 1e-9 * std::max(std::abs(a), std::abs(b)); }

void check_tables(const Answers& answers, const Settings& settings, bool gray) {
  const uint8_t* const given[2] = {settings.luma, settings.chroma};
  for (size_t slot = 0; slot < 2; ++slot) {
    for (size_t i = 0; i < 64; ++i) {
      const int step = answers.tables[slot][i];
      bool right = step >= 1 && step <= settings.q_max;
      if (slot == 1 && gray) {
        right = step == 0;
      } else if (settings.mode == Settings::kLadder) {
        right = step == settings.levels[static_cast<size_t>(answers.result.level)].tables[slot][i];
      } else if (settings.mode == Settings::kFixed) {
        // Scaled steps go up one by one: each is one of the two integers next to its exact value.
        const double exact = std::clamp(given[slot][i] * answers.result.scale, 1.0, 255.0);
        right = settings.has_budget() ? std::abs(step - exact) <= 1 : step == given[slot][i];
      }
      FUZZ_CHECK(right, "table %zu has %d at %zu", slot, step, i);
    }
  }
}

void check_control(const edgejpeg_result& result, const Settings& settings) {
  const bool searched = settings.has_budget();
  FUZZ_CHECK(result.encodes >= 1 && (searched || result.encodes == 1), "%d encodes", result.encodes);
  if (settings.mode == Settings::kLadder) {
    const auto count = static_cast<int32_t>(settings.levels.size());
    const bool given = !settings.has_slope;
    const int32_t highest = given ? settings.level : count - 1;
    FUZZ_CHECK(result.level >= 0 && result.level <= highest && (!given || searched || result.level == highest),
               "level %d of %d", result.level, count);
    FUZZ_CHECK(result.scale == 1 && result.luma_water_level == 0, "a ladder with scale %g", result.scale);
    return;
  }
  FUZZ_CHECK(result.level == -1, "level %d without a ladder", result.level);
  if (settings.mode == Settings::kFixed) {
    FUZZ_CHECK(result.scale > 0 && (searched || result.scale == 1) && result.luma_water_level == 0, "scale %g",
               result.scale);
    return;
  }
  FUZZ_CHECK(result.scale == 0 && result.luma_water_level > 0, "water level %g", result.luma_water_level);
  FUZZ_CHECK(searched || result.luma_water_level == settings.luma_level, "water level %g, not %g",
             result.luma_water_level, settings.luma_level);
}

void check_segments(const edgejpeg_result& result, const Settings& settings, size_t size) {
  const size_t parts[] = {result.bytes_app,           result.bytes_comment, result.bytes_quantization,
                          result.bytes_frame,         result.bytes_huffman, result.bytes_scan_headers,
                          result.bytes_entropy_coded, result.bytes_other};
  size_t sum = 0;
  for (size_t part : parts) sum += part;
  FUZZ_CHECK(result.bytes == size && sum == size, "%zu bytes, by segment %zu, in a file of %zu", result.bytes, sum,
             size);
  const bool bare = settings.options.container == EDGEJPEG_LEAN && settings.options.orientation == 0;
  FUZZ_CHECK((result.bytes_app == 0) == bare, "%zu bytes of APP segments", result.bytes_app);
  FUZZ_CHECK((result.bytes_comment == 0) == settings.comment.empty(), "%zu bytes of comments", result.bytes_comment);
  for (uint64_t time : result.nanoseconds)
    FUZZ_CHECK(settings.options.timing != 0 || time == 0, "a time not asked for");
}

void check_statistics(const Answers& answers, const Settings& settings, size_t components) {
  const edgejpeg_status expected = settings.keeps_statistics() ? EDGEJPEG_OK : EDGEJPEG_NOT_READY;
  check_status(answers.measured, expected, "statistics");
  check_status(answers.summed, expected, "swe");  // the frames are too small to be sampled
  if (expected != EDGEJPEG_OK) return;
  const edgejpeg_statistics& statistics = answers.statistics;
  FUZZ_CHECK(statistics.components == static_cast<int32_t>(components), "statistics of other components");
  for (size_t c = 0; c < 3; ++c) {
    FUZZ_CHECK((statistics.blocks[c] > 0) == (c < components), "blocks[%zu]", c);
    FUZZ_CHECK(answers.errors[c] >= 0 && (c < components || answers.errors[c] == 0), "error %g", answers.errors[c]);
    for (size_t i = 0; i < 64; ++i) {
      const double mean = statistics.mean[c][i];
      const double variance = statistics.variance[c][i];
      const double scale = statistics.laplace_scale[c][i];
      const double most = c < components ? 1100 : 0;  // |C| <= 8 x 128, and some rounding
      FUZZ_CHECK(std::abs(mean) <= most && variance >= 0 && variance <= most * most && scale >= 0 && scale <= 2 * most,
                 "component %zu, frequency %zu: %g, %g, %g", c, i, mean, variance, scale);
    }
  }
}

std::vector<uint8_t> comment_of(const edgejpeg_result& result, const Settings& settings) {
  std::vector<uint8_t> comment = settings.comment;
  if (comment.empty() || settings.options.comment_control == 0) return comment;
  char text[64] = "";
  const double peak = *std::max_element(settings.sensitivity, settings.sensitivity + 64);
  if (settings.mode == Settings::kLadder) {
    std::snprintf(text, sizeof(text), " level=%d", result.level);
  } else if (settings.mode == Settings::kFixed && settings.has_budget()) {
    std::snprintf(text, sizeof(text), " scale=%.6g", result.scale);
  } else if (settings.mode == Settings::kDesigned && peak > 0) {
    std::snprintf(text, sizeof(text), " d=%.6g", result.luma_water_level / (10 * peak));
  }
  comment.insert(comment.end(), text, text + std::strlen(text));
  return comment;
}

}  // namespace

void check_result(edgejpeg_encoder* encoder, const Settings& settings, const Frame& frame,
                  const std::vector<uint8_t>& file) {
  const Answers answers(encoder);
  const bool gray = settings.is_gray(frame.image);
  const size_t components = gray ? 1 : 3;
  FUZZ_CHECK(answers.result.components == static_cast<int32_t>(components), "%d components", answers.result.components);
  FUZZ_CHECK(file.size() <= settings.budget(frame.image), "%zu bytes, and a budget of %zu", file.size(),
             settings.budget(frame.image));
  check_control(answers.result, settings);
  check_tables(answers, settings, gray);
  check_segments(answers.result, settings, file.size());
  check_statistics(answers, settings, components);
  const edgejpeg_options& options = settings.options;
  const std::vector<uint8_t> comment = comment_of(answers.result, settings);
  const Expected expected = {static_cast<size_t>(frame.image.width),
                             static_cast<size_t>(frame.image.height),
                             components,
                             gray || options.subsampling == EDGEJPEG_444 ? size_t{1} : size_t{2},
                             gray || options.subsampling != EDGEJPEG_420 ? size_t{1} : size_t{2},
                             {answers.tables[0], answers.tables[1]},
                             &comment,
                             options.container == EDGEJPEG_LEAN,
                             options.progressive != 0,
                             static_cast<uint8_t>(options.orientation),
                             static_cast<size_t>(options.restart_rows)};
  check_file(file.data(), file.size(), expected);
}

void check_no_result(edgejpeg_encoder* encoder) {
  uint8_t tables[2][64];
  edgejpeg_result result;
  edgejpeg_statistics statistics;
  double errors[3];
  const edgejpeg_status statuses[] = {
      edgejpeg_encoder_tables(encoder, tables[0], tables[1]),
      edgejpeg_encoder_result(encoder, &result),
      edgejpeg_encoder_statistics(encoder, &statistics),
      edgejpeg_encoder_swe(encoder, errors),
  };
  for (edgejpeg_status status : statuses) check_status(status, EDGEJPEG_NOT_READY, "a question without a frame");
}

void check_same_result(edgejpeg_encoder* encoder, edgejpeg_encoder* other) {
  const Answers one(encoder);
  const Answers two(other);
  FUZZ_CHECK(std::memcmp(one.tables, two.tables, sizeof(one.tables)) == 0, "other tables");
  FUZZ_CHECK(one.result.level == two.result.level && one.result.encodes == two.result.encodes &&
                 one.result.luma_water_level == two.result.luma_water_level && one.result.scale == two.result.scale,
             "another level, %d and %d, or water level, %g and %g", one.result.level, two.result.level,
             one.result.luma_water_level, two.result.luma_water_level);
  for (size_t c = 0; c < 3; ++c) {
    FUZZ_CHECK(is_near(one.errors[c], two.errors[c]), "errors %g and %g", one.errors[c], two.errors[c]);
  }
}

}  // namespace edgejpeg_fuzz
