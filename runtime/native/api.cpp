// The C interface: every argument is checked here, and every failure becomes a status with a message.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "backend.h"
#include "edgejpeg.h"
#include "encoder.h"
#include "error.h"
#include "image.h"

struct edgejpeg_encoder {
  edgejpeg::Encoder encoder;
};

namespace {

using edgejpeg::check_range;
using edgejpeg::Encoder;
using edgejpeg::fail;
using edgejpeg::fail_null;

edgejpeg_status check_table(const char* name, const uint8_t* table) {
  for (int i = 0; i < 64; ++i) {
    if (table[i] == 0) {
      return fail(EDGEJPEG_INVALID_ARGUMENT, "the %s table has 0 at row %d, column %d; steps are 1 to 255", name, i / 8,
                  i % 8);
    }
  }
  return EDGEJPEG_OK;
}

edgejpeg_status check_water_level(const char* name, double value) {
  if (std::isfinite(value) && value > 0) return EDGEJPEG_OK;
  return fail(EDGEJPEG_INVALID_ARGUMENT, "%s is %g; it is a positive, finite number", name, value);
}

// `chroma` may be NULL, thresholds may as well.
edgejpeg_status check_dead_zone(const char* name, const double* thresholds) {
  for (int i = 0; thresholds != nullptr && i < 64; ++i) {
    if (!(thresholds[i] >= 0.5 && thresholds[i] <= 1)) {
      return fail(EDGEJPEG_INVALID_ARGUMENT, "the %s threshold at row %d, column %d is %g; it is .5 to 1", name, i / 8,
                  i % 8, thresholds[i]);
    }
  }
  if (thresholds != nullptr && thresholds[0] > 0.5) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "the %s threshold of DC is %g; DC is rounded, its threshold is .5", name,
                thresholds[0]);
  }
  return EDGEJPEG_OK;
}

edgejpeg_status check_options(const edgejpeg_options& options) {
  const struct {
    const char* name;
    int32_t value;
    int32_t low;
    int32_t high;
  } fields[] = {
      {"subsampling", options.subsampling, EDGEJPEG_444, EDGEJPEG_GRAY},
      {"effort", options.effort, 0, 1},
      {"threads", options.threads, 1, EDGEJPEG_MAX_THREADS},
      {"standard_huffman", options.standard_huffman, 0, 1},
      {"exact_huffman", options.exact_huffman, 0, 1},
      {"sampled_statistics", options.sampled_statistics, 0, 1},
      {"container", options.container, EDGEJPEG_JFIF, EDGEJPEG_LEAN},
      {"progressive", options.progressive, 0, 1},
      {"restart_rows", options.restart_rows, 0, EDGEJPEG_MAX_SIZE},
      {"orientation", options.orientation, 0, 8},
      {"quantization", options.quantization, EDGEJPEG_ROUND, EDGEJPEG_TRELLIS},
      {"keep_statistics", options.keep_statistics, 0, 1},
      {"timing", options.timing, 0, 1},
      {"comment_control", options.comment_control, 0, 1},
  };
  for (const auto& field : fields) {
    if (const auto status = check_range(field.name, field.value, field.low, field.high)) return status;
  }
  if (!std::isfinite(options.trellis_weight) || options.trellis_weight < 0) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "trellis_weight is %g; it is finite and not negative",
                options.trellis_weight);
  }
  if (options.progressive != 0 && options.restart_rows != 0) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "progressive is 1 and restart_rows is %d; one of them is 0",
                static_cast<int>(options.restart_rows));
  }
  if (options.progressive != 0 && options.standard_huffman != 0) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "progressive and standard_huffman are 1; one of them is 0");
  }
  return EDGEJPEG_OK;
}

edgejpeg_status check_level(const char* function, const edgejpeg_level& level, double rate_below) {
  if (level.luma == nullptr) return fail_null(function, "luma of a level");
  if (const auto status = check_table("luma", level.luma)) return status;
  if (level.chroma != nullptr) {
    if (const auto status = check_table("chroma", level.chroma)) return status;
  }
  if (const auto status = check_dead_zone("luma", level.luma_dead_zone)) return status;
  if (const auto status = check_dead_zone("chroma", level.chroma_dead_zone)) return status;
  if (std::isfinite(level.rate) && level.rate > rate_below) return EDGEJPEG_OK;
  return fail(EDGEJPEG_INVALID_ARGUMENT, "a level's rate is %g; it is finite and above %g, the level's below",
              level.rate, rate_below);
}

edgejpeg_status check_ladder(const Encoder& encoder) {
  if (encoder.mode() == Encoder::Mode::kLadder) return EDGEJPEG_OK;
  return fail(EDGEJPEG_NOT_READY, "no ladder yet; call edgejpeg_encoder_set_ladder");
}

edgejpeg_status encode(const char* function, Encoder& core, const edgejpeg_image& image, size_t* size) {
  if (const auto status = edgejpeg::check_image(function, image)) return status;
  if (core.mode() == Encoder::Mode::kNone) {
    return fail(EDGEJPEG_NOT_READY, "no tables yet; call edgejpeg_encoder_set_tables or edgejpeg_encoder_set_design");
  }
  if (core.mode() != Encoder::Mode::kDesigned && !core.has_chroma_table() && !core.is_gray(image)) {
    return fail(EDGEJPEG_NOT_READY, "a colour frame needs a chroma table; give one with the luma table");
  }
  const size_t interval = core.restart_interval(image);
  if (interval > EDGEJPEG_MAX_RESTART_INTERVAL) {
    return fail(EDGEJPEG_INVALID_ARGUMENT,
                "a restart interval of %zu MCUs for a frame of %d x %d; at most %d: choose a "
                "smaller restart_rows",
                interval, static_cast<int>(image.width), static_cast<int>(image.height), EDGEJPEG_MAX_RESTART_INTERVAL);
  }
  const edgejpeg_status status = core.encode(image);
  if (status == EDGEJPEG_BUDGET_NOT_MET) {
    *size = core.smallest_size();
    return fail(status, "no table meets the budget: the smallest file of this frame has %zu bytes", *size);
  }
  if (status != EDGEJPEG_OK) {
    return fail(EDGEJPEG_OUT_OF_MEMORY, "not enough memory to encode a frame of %d x %d", static_cast<int>(image.width),
                static_cast<int>(image.height));
  }
  *size = core.file().size();
  return EDGEJPEG_OK;
}

}  // namespace

const char* edgejpeg_version(void) { return EDGEJPEG_VERSION; }

edgejpeg_status edgejpeg_encoder_create(const edgejpeg_options* options, edgejpeg_encoder** encoder) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  *encoder = nullptr;
  if (options == nullptr) return fail_null(__func__, "options");
  if (const auto status = check_options(*options)) return status;
  const char* const wanted = std::getenv("EDGEJPEG_BACKEND");
  const edgejpeg::Backend* const backend = edgejpeg::choose_backend(wanted);
  if (backend == nullptr) {
    return fail(EDGEJPEG_INVALID_ARGUMENT,
                "EDGEJPEG_BACKEND is \"%.32s\"; it is scalar, reference, avx2, avx512 or neon where the processor has "
                "it, or not set",
                wanted);
  }
  auto* created = new (std::nothrow) edgejpeg_encoder;
  if (created == nullptr || !created->encoder.start(*options, *backend)) {
    delete created;
    return fail(EDGEJPEG_OUT_OF_MEMORY, "not enough memory or threads for an encoder with %d threads",
                static_cast<int>(options->threads));
  }
  *encoder = created;
  return EDGEJPEG_OK;
}

void edgejpeg_encoder_destroy(edgejpeg_encoder* encoder) { delete encoder; }

const char* edgejpeg_encoder_backend(const edgejpeg_encoder* encoder) {
  return encoder == nullptr ? nullptr : encoder->encoder.backend().name;
}

edgejpeg_status edgejpeg_encoder_set_tables(edgejpeg_encoder* encoder, const uint8_t* luma, const uint8_t* chroma) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (luma == nullptr) return fail_null(__func__, "luma");
  if (const auto status = check_table("luma", luma)) return status;
  if (chroma != nullptr) {
    if (const auto status = check_table("chroma", chroma)) return status;
  }
  encoder->encoder.set_tables(luma, chroma);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_design(edgejpeg_encoder* encoder, const double* sensitivity,
                                            double luma_water_level, double chroma_water_level, int32_t q_max) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (sensitivity == nullptr) return fail_null(__func__, "sensitivity");
  if (const auto status = check_water_level("luma_water_level", luma_water_level)) return status;
  if (const auto status = check_water_level("chroma_water_level", chroma_water_level)) return status;
  if (const auto status = check_range("q_max", q_max, 1, 255)) return status;
  edgejpeg::Design design = {};
  for (int i = 0; i < 3 * 64; ++i) {
    if (!std::isfinite(sensitivity[i]) || sensitivity[i] < 0) {
      return fail(EDGEJPEG_INVALID_ARGUMENT, "sensitivity[%d] is %g; it is finite and not negative", i, sensitivity[i]);
    }
    design.sensitivity[i / 64][i % 64] = sensitivity[i];
  }
  design.luma_water_level = luma_water_level;
  design.chroma_water_level = chroma_water_level;
  design.q_max = q_max;
  encoder->encoder.set_design(design);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_dead_zone(edgejpeg_encoder* encoder, const double* luma, const double* chroma) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (const auto status = check_dead_zone("luma", luma)) return status;
  if (const auto status = check_dead_zone("chroma", chroma)) return status;
  encoder->encoder.set_dead_zone(luma, chroma);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_ladder(edgejpeg_encoder* encoder, const edgejpeg_level* levels, int32_t count,
                                            int32_t level) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (levels == nullptr) return fail_null(__func__, "levels");
  if (const auto status = check_range("count", count, 1, EDGEJPEG_MAX_LEVELS)) return status;
  if (const auto status = check_range("level", level, 0, count - 1)) return status;
  edgejpeg::Ladder ladder = {};
  ladder.count = static_cast<size_t>(count);
  for (size_t i = 0; i < ladder.count; ++i) {
    if (const auto status = check_level(__func__, levels[i], i == 0 ? 0 : levels[i - 1].rate)) return status;
    edgejpeg::Ladder::Level& copy = ladder.levels[i];
    const uint8_t* const tables[2] = {levels[i].luma, levels[i].chroma};
    const double* const dead_zones[2] = {levels[i].luma_dead_zone, levels[i].chroma_dead_zone};
    for (size_t slot = 0; slot < 2; ++slot) {
      copy.has_dead_zone[slot] = dead_zones[slot] != nullptr;
      if (tables[slot] != nullptr) std::memcpy(copy.tables[slot], tables[slot], 64);
      if (dead_zones[slot] != nullptr) std::memcpy(copy.dead_zone[slot], dead_zones[slot], 64 * sizeof(double));
    }
    copy.has_chroma_table = levels[i].chroma != nullptr;
    copy.rate = levels[i].rate;
  }
  encoder->encoder.set_ladder(ladder, static_cast<size_t>(level));
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_level(edgejpeg_encoder* encoder, int32_t level) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (const auto status = check_ladder(encoder->encoder)) return status;
  const auto highest = static_cast<long long>(encoder->encoder.levels()) - 1;
  if (const auto status = check_range("level", level, 0, highest)) return status;
  encoder->encoder.set_level(static_cast<size_t>(level));
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_slope(edgejpeg_encoder* encoder, double slope) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (const auto status = check_ladder(encoder->encoder)) return status;
  if (!std::isfinite(slope) || slope < 0) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "slope is %g; it is a finite number of bytes per level, 0 or more", slope);
  }
  encoder->encoder.set_slope(slope);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_budget(edgejpeg_encoder* encoder, size_t max_bytes, double max_bits_per_pixel) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (!std::isfinite(max_bits_per_pixel) || max_bits_per_pixel < 0) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "max_bits_per_pixel is %g; it is finite and not negative",
                max_bits_per_pixel);
  }
  encoder->encoder.set_budget(max_bytes, max_bits_per_pixel);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_set_comment(edgejpeg_encoder* encoder, const char* text, size_t size) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (text == nullptr && size > 0) return fail_null(__func__, "text");
  if (size > encoder->encoder.max_comment()) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "a comment of %zu bytes; a JPEG segment holds at most %zu here", size,
                encoder->encoder.max_comment());
  }
  if (!encoder->encoder.set_comment(text, size)) {
    return fail(EDGEJPEG_OUT_OF_MEMORY, "not enough memory for a comment of %zu bytes", size);
  }
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_encode(edgejpeg_encoder* encoder, const edgejpeg_image* image, const uint8_t** data,
                                        size_t* size) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (image == nullptr) return fail_null(__func__, "image");
  if (data == nullptr) return fail_null(__func__, "data");
  if (size == nullptr) return fail_null(__func__, "size");
  *data = nullptr;
  *size = 0;
  if (const auto status = encode(__func__, encoder->encoder, *image, size)) return status;
  *data = encoder->encoder.file().data();
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_encode_to(edgejpeg_encoder* encoder, const edgejpeg_image* image, uint8_t* out,
                                           size_t capacity, size_t* size) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (image == nullptr) return fail_null(__func__, "image");
  if (out == nullptr && capacity > 0) return fail_null(__func__, "out");
  if (size == nullptr) return fail_null(__func__, "size");
  *size = 0;
  if (const auto status = edgejpeg::check_image(__func__, *image)) return status;
  if (edgejpeg::overlaps(*image, out, capacity)) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "%s: the %zu bytes of out overlap the memory of the image", __func__,
                capacity);
  }
  if (const auto status = encode(__func__, encoder->encoder, *image, size)) return status;
  if (*size > capacity) {
    return fail(EDGEJPEG_BUFFER_TOO_SMALL, "the file has %zu bytes, the buffer %zu; give a larger one", *size,
                capacity);
  }
  std::memcpy(out, encoder->encoder.file().data(), *size);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_tables(const edgejpeg_encoder* encoder, uint8_t* luma, uint8_t* chroma) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (luma == nullptr) return fail_null(__func__, "luma");
  if (chroma == nullptr) return fail_null(__func__, "chroma");
  if (encoder->encoder.components() == 0) return fail(EDGEJPEG_NOT_READY, "no frame has been encoded yet");
  std::memcpy(luma, encoder->encoder.table(0), 64);
  std::memcpy(chroma, encoder->encoder.table(1), 64);
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_statistics(const edgejpeg_encoder* encoder, edgejpeg_statistics* statistics) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (statistics == nullptr) return fail_null(__func__, "statistics");
  if (!encoder->encoder.has_statistics()) {
    return fail(EDGEJPEG_NOT_READY,
                "no statistics: the last frame had given tables and needed none, or there was none");
  }
  *statistics = encoder->encoder.statistics();
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_result(const edgejpeg_encoder* encoder, edgejpeg_result* result) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (result == nullptr) return fail_null(__func__, "result");
  if (encoder->encoder.components() == 0) return fail(EDGEJPEG_NOT_READY, "no frame has been encoded yet");
  *result = encoder->encoder.result();
  return EDGEJPEG_OK;
}

edgejpeg_status edgejpeg_encoder_swe(edgejpeg_encoder* encoder, double swe[3]) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (swe == nullptr) return fail_null(__func__, "swe");
  if (!encoder->encoder.has_all_coefficients()) {
    return fail(EDGEJPEG_NOT_READY,
                "no coefficients: the last frame had given tables and needed none, or there was none");
  }
  encoder->encoder.weighted_errors(swe);
  return EDGEJPEG_OK;
}
