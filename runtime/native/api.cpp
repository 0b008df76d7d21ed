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

edgejpeg_status encode(const char* function, Encoder& core, const edgejpeg_image& image) {
  if (const auto status = edgejpeg::check_image(function, image)) return status;
  if (core.mode() == Encoder::Mode::kNone) {
    return fail(EDGEJPEG_NOT_READY, "no tables yet; call edgejpeg_encoder_set_tables or edgejpeg_encoder_set_design");
  }
  if (core.mode() == Encoder::Mode::kFixed && !core.has_chroma_table() && !core.is_gray(image)) {
    return fail(EDGEJPEG_NOT_READY, "a colour frame needs a chroma table; give one to edgejpeg_encoder_set_tables");
  }
  const size_t interval = core.restart_interval(image);
  if (interval > EDGEJPEG_MAX_RESTART_INTERVAL) {
    return fail(EDGEJPEG_INVALID_ARGUMENT,
                "a restart interval of %zu MCUs for a frame of %d x %d; at most %d: choose a "
                "smaller restart_rows",
                interval, static_cast<int>(image.width), static_cast<int>(image.height), EDGEJPEG_MAX_RESTART_INTERVAL);
  }
  if (core.encode(image)) return EDGEJPEG_OK;
  return fail(EDGEJPEG_OUT_OF_MEMORY, "not enough memory to encode a frame of %d x %d", static_cast<int>(image.width),
              static_cast<int>(image.height));
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
    return fail(
        EDGEJPEG_INVALID_ARGUMENT,
        "EDGEJPEG_BACKEND is \"%.32s\"; it is scalar, reference, avx2 or neon where the processor has it, or not set",
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

edgejpeg_status edgejpeg_encoder_set_comment(edgejpeg_encoder* encoder, const char* text, size_t size) {
  if (encoder == nullptr) return fail_null(__func__, "encoder");
  if (text == nullptr && size > 0) return fail_null(__func__, "text");
  if (size > EDGEJPEG_MAX_COMMENT) {
    return fail(EDGEJPEG_INVALID_ARGUMENT, "a comment of %zu bytes; a JPEG segment holds at most %d", size,
                EDGEJPEG_MAX_COMMENT);
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
  if (const auto status = encode(__func__, encoder->encoder, *image)) return status;
  *data = encoder->encoder.file().data();
  *size = encoder->encoder.file().size();
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
  if (const auto status = encode(__func__, encoder->encoder, *image)) return status;
  *size = encoder->encoder.file().size();
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
    return fail(EDGEJPEG_NOT_READY, "no statistics: the last frame had fixed tables, or there was none");
  }
  *statistics = encoder->encoder.statistics();
  return EDGEJPEG_OK;
}
