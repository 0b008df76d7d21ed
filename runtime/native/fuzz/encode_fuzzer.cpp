// Sequences of calls on one encoder handle, against a model of what the header promises.
//
// Every file is read to its last bit, and compared with what a new handle with one thread and the scalar back end makes
// of the same frame without its strides, its samples arranged in another way.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "check.h"
#include "edgejpeg.h"
#include "file_check.h"
#include "frame.h"
#include "reader.h"

namespace {

using edgejpeg_fuzz::Frame;
using edgejpeg_fuzz::Noise;
using edgejpeg_fuzz::Reader;

constexpr size_t kMaxCalls = 12;

void check_status(edgejpeg_status status, edgejpeg_status expected, const char* call) {
  FUZZ_CHECK(status >= EDGEJPEG_OK && status <= EDGEJPEG_BUFFER_TOO_SMALL, "%s returned %d", call,
             static_cast<int>(status));
  FUZZ_CHECK(status == expected, "%s returned %d, not %d; last error: %s", call, static_cast<int>(status),
             static_cast<int>(expected), edgejpeg_last_error());
  if (status == EDGEJPEG_OK) return;
  const char* const message = edgejpeg_last_error();
  FUZZ_CHECK(message != nullptr && message[0] != '\0' && std::strchr(message, '\n') == nullptr, "%s: no message", call);
}

// What a handle has been told; a call that fails changes nothing.
struct Settings {
  edgejpeg_options options = {};
  enum { kNone, kFixed, kDesigned } mode = kNone;
  uint8_t luma[64] = {};
  uint8_t chroma[64] = {};
  bool has_chroma = false;
  double sensitivity[3 * 64] = {};
  double luma_level = 0;
  double chroma_level = 0;
  int32_t q_max = 0;
  std::vector<uint8_t> comment;
};

class Session {
 public:
  explicit Session(Reader* reader) : reader_(reader) {}
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() { edgejpeg_encoder_destroy(encoder_); }

  void run() {
    while (encoder_ == nullptr) {
      create();
      if (reader_->empty() && encoder_ == nullptr) return;
    }
    for (size_t calls = 0; calls < kMaxCalls && !reader_->empty(); ++calls) call();
  }

 private:
  void call() {
    switch (reader_->choice(16)) {
      case 0:
      case 1:
      case 2:
        set_tables();
        break;
      case 3:
      case 4:
      case 5:
        set_design();
        break;
      case 6:
        set_comment();
        break;
      case 7:
        pass_null();
        break;
      case 8:
        create();
        break;
      case 9:
        ask();
        break;
      default:
        encode();
    }
  }

  // Kinds of files, and where their Huffman tables come from; allowed ones.
  void read_file_options(edgejpeg_options* options) {
    const size_t bits = reader_->choice(256);
    options->container = bits & 1;
    options->progressive = bits >> 1 & 1;
    options->exact_huffman = bits >> 2 & 1;
    options->sampled_statistics = bits >> 3 & 1;
    if (options->progressive == 0) {
      options->standard_huffman = bits >> 4 & 1;
      options->restart_rows = (bits >> 5 & 1) != 0 ? reader_->range(0, EDGEJPEG_MAX_SIZE) >> reader_->choice(17) : 0;
    }
    options->orientation = (bits >> 6 & 1) != 0 ? static_cast<int32_t>(reader_->choice(9)) : 0;
  }

  void create() {
    edgejpeg_options options = {};
    options.subsampling = static_cast<int32_t>(reader_->choice(4));
    options.effort = static_cast<int32_t>(reader_->choice(2));
    constexpr int32_t kThreads[] = {1, 2, 3, 4, 7, 1, 2, EDGEJPEG_MAX_THREADS};
    const size_t byte = reader_->choice(256);
    const size_t threads = byte % 64;
    options.threads = kThreads[threads < 8 ? threads : threads % 7];
    if (byte >= 64) read_file_options(&options);
    bool valid = true;
    if (reader_->once_in(16)) {
      constexpr int32_t kWrong[] = {-1, EDGEJPEG_MAX_THREADS + 1, INT32_MAX, INT32_MIN};
      const int32_t wrong = kWrong[reader_->choice(std::size(kWrong))];
      int32_t* const fields[] = {&options.threads,   &options.effort,      &options.subsampling,
                                 &options.container, &options.progressive, &options.orientation};
      *fields[reader_->choice(std::size(fields))] = wrong;
      valid = false;
    }
    edgejpeg_encoder* created = nullptr;
    const edgejpeg_status status = edgejpeg_encoder_create(&options, &created);
    if (!valid) return check_status(status, EDGEJPEG_INVALID_ARGUMENT, "create");
    // A machine may refuse to start so many threads.
    if (status == EDGEJPEG_OUT_OF_MEMORY && options.threads > 1) return;
    check_status(status, EDGEJPEG_OK, "create");
    FUZZ_CHECK(created != nullptr, "created nothing");
    edgejpeg_encoder_destroy(encoder_);
    encoder_ = created;
    settings_ = Settings();
    settings_.options = options;
    encoded_ = false;
  }

  bool read_table(uint8_t* table) {
    const size_t kind = reader_->choice(6);
    Noise noise(reader_->any<uint16_t>());
    bool valid = true;
    for (size_t i = 0; i < 64; ++i) {
      const size_t value = kind == 0   ? 1
                           : kind == 1 ? 255
                           : kind == 2 ? reader_->any<uint8_t>()
                           : kind == 3 ? 1 + noise.next() % 255
                                       : 1 + noise.next() % (2 + 2 * i);
      table[i] = static_cast<uint8_t>(value);
      valid = valid && value > 0;
    }
    return valid;
  }

  void set_tables() {
    uint8_t luma[64];
    uint8_t chroma[64];
    bool valid = read_table(luma);
    const bool has_chroma = !reader_->once_in(8);
    if (has_chroma) valid = read_table(chroma) && valid;
    const edgejpeg_status status = edgejpeg_encoder_set_tables(encoder_, luma, has_chroma ? chroma : nullptr);
    check_status(status, valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_tables");
    if (!valid) return;
    settings_.mode = Settings::kFixed;
    settings_.has_chroma = has_chroma;
    std::memcpy(settings_.luma, luma, 64);
    if (has_chroma) std::memcpy(settings_.chroma, chroma, 64);
  }

  double read_number() {
    constexpr double kEdges[] = {0,        1,       -0.0, 5e-324, DBL_MIN, DBL_MAX,
                                 INFINITY, -1e-300, NAN,  1e-160, 1e160,   std::numeric_limits<double>::epsilon()};
    if (reader_->once_in(4)) return kEdges[reader_->choice(std::size(kEdges))];
    if (reader_->once_in(16)) return reader_->any<double>();
    return std::pow(10.0, reader_->range(-3000, 3000) / (reader_->once_in(4) ? 10.0 : 1000.0));
  }

  void set_design() {
    double sensitivity[3 * 64];
    const size_t kind = reader_->choice(4);
    Noise noise(reader_->any<uint16_t>());
    const double scale = read_number();
    bool valid = true;
    for (size_t i = 0; i < std::size(sensitivity); ++i) {
      sensitivity[i] = kind == 0   ? scale
                       : kind == 1 ? scale / static_cast<double>(1 + i % 64)
                       : kind == 2 ? std::pow(10.0, static_cast<double>(noise.next() % 600) - 300)
                                   : scale * static_cast<double>(noise.next() % 1000);
    }
    if (reader_->once_in(4)) sensitivity[reader_->choice(std::size(sensitivity))] = read_number();
    for (double s : sensitivity) valid = valid && std::isfinite(s) && s >= 0;
    const double luma_level = read_number();
    const double chroma_level = reader_->once_in(2) ? read_number() : luma_level;
    for (double level : {luma_level, chroma_level}) valid = valid && std::isfinite(level) && level > 0;
    int32_t q_max = 1 + static_cast<int32_t>(reader_->choice(255));
    if (reader_->once_in(32)) {
      constexpr int32_t kWrong[] = {0, -1, 256, INT32_MAX, INT32_MIN};
      q_max = kWrong[reader_->choice(std::size(kWrong))];
      valid = false;
    }
    const edgejpeg_status status = edgejpeg_encoder_set_design(encoder_, sensitivity, luma_level, chroma_level, q_max);
    check_status(status, valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_design");
    if (!valid) return;
    settings_.mode = Settings::kDesigned;
    std::memcpy(settings_.sensitivity, sensitivity, sizeof(sensitivity));
    settings_.luma_level = luma_level;
    settings_.chroma_level = chroma_level;
    settings_.q_max = q_max;
  }

  void set_comment() {
    constexpr size_t kSizes[] = {0, 1, EDGEJPEG_MAX_COMMENT, EDGEJPEG_MAX_COMMENT + 1, 1 << 17};
    const size_t kind = reader_->choice(16);
    std::vector<uint8_t> text(kind < std::size(kSizes) ? kSizes[kind] : reader_->choice(64));
    for (size_t i = 0; i < text.size(); ++i) text[i] = i < 64 ? reader_->any<uint8_t>() : 0xFF;
    const edgejpeg_status status =
        edgejpeg_encoder_set_comment(encoder_, reinterpret_cast<const char*>(text.data()), text.size());
    const bool valid = text.size() <= EDGEJPEG_MAX_COMMENT;
    check_status(status, valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_comment");
    if (valid) settings_.comment = std::move(text);
  }

  void pass_null() {
    edgejpeg_options options = {};
    options.threads = 1;
    edgejpeg_encoder* created = nullptr;
    uint8_t table[64] = {};
    double sensitivity[3 * 64] = {};
    edgejpeg_image image = {};
    const uint8_t* data = nullptr;
    size_t size = 0;
    edgejpeg_statistics statistics = {};
    const edgejpeg_status statuses[] = {
        edgejpeg_encoder_create(nullptr, &created),
        edgejpeg_encoder_create(&options, nullptr),
        edgejpeg_encoder_set_tables(nullptr, table, table),
        edgejpeg_encoder_set_tables(encoder_, nullptr, table),
        edgejpeg_encoder_set_design(nullptr, sensitivity, 1, 1, 100),
        edgejpeg_encoder_set_design(encoder_, nullptr, 1, 1, 100),
        edgejpeg_encoder_set_comment(nullptr, "", 0),
        edgejpeg_encoder_set_comment(encoder_, nullptr, 1),
        edgejpeg_encoder_encode(nullptr, &image, &data, &size),
        edgejpeg_encoder_encode(encoder_, nullptr, &data, &size),
        edgejpeg_encoder_encode(encoder_, &image, nullptr, &size),
        edgejpeg_encoder_encode(encoder_, &image, &data, nullptr),
        edgejpeg_encoder_encode(encoder_, &image, &data, &size),
        edgejpeg_encoder_encode_to(nullptr, &image, table, 64, &size),
        edgejpeg_encoder_encode_to(encoder_, nullptr, table, 64, &size),
        edgejpeg_encoder_encode_to(encoder_, &image, nullptr, 64, &size),
        edgejpeg_encoder_encode_to(encoder_, &image, table, 64, nullptr),
        edgejpeg_encoder_encode_to(encoder_, &image, table, 64, &size),
        edgejpeg_encoder_tables(nullptr, table, table),
        edgejpeg_encoder_tables(encoder_, nullptr, table),
        edgejpeg_encoder_tables(encoder_, table, nullptr),
        edgejpeg_encoder_statistics(nullptr, &statistics),
        edgejpeg_encoder_statistics(encoder_, nullptr),
    };
    for (edgejpeg_status status : statuses) check_status(status, EDGEJPEG_INVALID_ARGUMENT, "a call with NULL");
    FUZZ_CHECK(created == nullptr, "created an encoder without options");
    edgejpeg_encoder_destroy(nullptr);
  }

  // Questions between the frames are answered, or refused, but never with an encoder that is worse afterwards.
  void ask() {
    uint8_t luma[64];
    uint8_t chroma[64];
    const edgejpeg_status tables = edgejpeg_encoder_tables(encoder_, luma, chroma);
    if (!encoded_) check_status(tables, EDGEJPEG_NOT_READY, "tables before a frame");
    edgejpeg_statistics statistics;
    const edgejpeg_status measured = edgejpeg_encoder_statistics(encoder_, &statistics);
    if (!encoded_) check_status(measured, EDGEJPEG_NOT_READY, "statistics before a frame");
    check_status(tables, tables == EDGEJPEG_OK ? EDGEJPEG_OK : EDGEJPEG_NOT_READY, "tables");
    check_status(measured, measured == EDGEJPEG_OK ? EDGEJPEG_OK : EDGEJPEG_NOT_READY, "statistics");
    FUZZ_CHECK(edgejpeg_version()[0] != '\0', "no version");
  }

  void encode() {
    const Frame frame = edgejpeg_fuzz::read_frame(reader_);
    std::vector<uint8_t> before[3];
    for (size_t i = 0; i < 3; ++i) before[i] = frame.planes[i].copy();
    const bool gray = settings_.options.subsampling == EDGEJPEG_GRAY || frame.image.format == EDGEJPEG_LUMA;
    const bool needs_chroma = settings_.mode == Settings::kFixed && !settings_.has_chroma && !gray;
    const edgejpeg_status expected = !frame.valid                                        ? EDGEJPEG_INVALID_ARGUMENT
                                     : settings_.mode == Settings::kNone || needs_chroma ? EDGEJPEG_NOT_READY
                                     : restart_interval(frame) > EDGEJPEG_MAX_RESTART_INTERVAL
                                         ? EDGEJPEG_INVALID_ARGUMENT
                                         : EDGEJPEG_OK;
    static const uint8_t untouched = 0;
    const uint8_t* data = &untouched;
    size_t size = 12345;
    const edgejpeg_status status = edgejpeg_encoder_encode(encoder_, &frame.image, &data, &size);
    for (size_t i = 0; i < 3; ++i) FUZZ_CHECK(frame.planes[i] == before[i], "plane %zu was written to", i);
    check_status(status, expected, "encode");
    if (status != EDGEJPEG_OK) {
      FUZZ_CHECK((data == nullptr && size == 0) || (data == &untouched && size == 12345), "a failure with bytes");
      return;
    }
    encoded_ = true;
    const std::vector<uint8_t> file(data, data + size);
    check_result(encoder_, frame, file);
    if (reader_->once_in(4)) {
      check_status(edgejpeg_encoder_encode(encoder_, &frame.image, &data, &size), EDGEJPEG_OK, "encode again");
      FUZZ_CHECK(file == std::vector<uint8_t>(data, data + size), "the same frame, other bytes");
    }
    compare_with_new_handle(frame, file);
    encode_to(frame, file);
  }

  // Into a buffer of any size, all of which is the fuzzer's to check; or over the frame, which is refused.
  void encode_to(const Frame& frame, const std::vector<uint8_t>& file) {
    size_t size = 12345;
    if (reader_->once_in(8)) {
      const edgejpeg_fuzz::Memory& plane = frame.planes[frame.planes[1].size > 0 ? reader_->choice(2) : 0];
      const std::vector<uint8_t> before = plane.copy();
      const size_t offset = reader_->range(0, 0xFFFF) % plane.size;
      check_status(
          edgejpeg_encoder_encode_to(encoder_, &frame.image, plane.bytes.get() + offset, plane.size - offset, &size),
          EDGEJPEG_INVALID_ARGUMENT, "encode_to over the frame");
      FUZZ_CHECK(plane == before, "a refused call wrote into the frame");
      return;
    }
    const size_t capacity =
        reader_->once_in(2) ? file.size() + reader_->choice(40) : reader_->any<uint16_t>() % (file.size() + 2);
    constexpr uint8_t kUntouched = 0xA5;
    std::vector<uint8_t> out(capacity, kUntouched);
    const edgejpeg_status status = edgejpeg_encoder_encode_to(encoder_, &frame.image, out.data(), capacity, &size);
    const bool fits = capacity >= file.size();
    check_status(status, fits ? EDGEJPEG_OK : EDGEJPEG_BUFFER_TOO_SMALL, "encode_to");
    FUZZ_CHECK(size == file.size(), "%zu bytes, not %zu", size, file.size());
    FUZZ_CHECK(!fits || std::memcmp(out.data(), file.data(), size) == 0, "encode_to gave other bytes");
    const auto end = out.begin() + static_cast<ptrdiff_t>(fits ? size : 0);
    FUZZ_CHECK(std::all_of(end, out.end(), [](uint8_t byte) { return byte == kUntouched; }), "bytes behind the file");
  }

  int64_t restart_interval(const Frame& frame) const {
    const int32_t subsampling = settings_.options.subsampling;
    const bool gray = subsampling == EDGEJPEG_GRAY || frame.image.format == EDGEJPEG_LUMA;
    const int64_t width = gray || subsampling == EDGEJPEG_444 ? 8 : 16;
    const int64_t height = gray || subsampling != EDGEJPEG_420 ? 8 : 16;
    const int64_t rows = (frame.image.height + height - 1) / height;
    return std::min<int64_t>(settings_.options.restart_rows, rows) * ((frame.image.width + width - 1) / width);
  }

  void check_result(const edgejpeg_encoder* encoder, const Frame& frame, const std::vector<uint8_t>& file) const {
    uint8_t luma[64];
    uint8_t chroma[64];
    check_status(edgejpeg_encoder_tables(encoder, luma, chroma), EDGEJPEG_OK, "tables");
    const bool gray = settings_.options.subsampling == EDGEJPEG_GRAY || frame.image.format == EDGEJPEG_LUMA;
    const size_t components = gray ? 1 : 3;
    const bool fixed = settings_.mode == Settings::kFixed;
    for (size_t i = 0; i < 64; ++i) {
      const bool right = fixed ? luma[i] == settings_.luma[i] : luma[i] >= 1 && luma[i] <= settings_.q_max;
      FUZZ_CHECK(right, "luma[%zu] is %u", i, luma[i]);
      const bool right_chroma = gray    ? chroma[i] == 0
                                : fixed ? chroma[i] == settings_.chroma[i]
                                        : chroma[i] >= 1 && chroma[i] <= settings_.q_max;
      FUZZ_CHECK(right_chroma, "chroma[%zu] is %u", i, chroma[i]);
    }
    check_statistics(encoder, components);
    const int32_t subsampling = settings_.options.subsampling;
    const edgejpeg_fuzz::Expected expected = {static_cast<size_t>(frame.image.width),
                                              static_cast<size_t>(frame.image.height),
                                              components,
                                              gray || subsampling == EDGEJPEG_444 ? size_t{1} : size_t{2},
                                              gray || subsampling != EDGEJPEG_420 ? size_t{1} : size_t{2},
                                              {luma, chroma},
                                              &settings_.comment,
                                              settings_.options.container == EDGEJPEG_LEAN,
                                              settings_.options.progressive != 0,
                                              static_cast<uint8_t>(settings_.options.orientation),
                                              static_cast<size_t>(settings_.options.restart_rows)};
    edgejpeg_fuzz::check_file(file.data(), file.size(), expected);
  }

  void check_statistics(const edgejpeg_encoder* encoder, size_t components) const {
    edgejpeg_statistics statistics = {};
    const edgejpeg_status status = edgejpeg_encoder_statistics(encoder, &statistics);
    if (settings_.mode == Settings::kFixed) return check_status(status, EDGEJPEG_NOT_READY, "statistics");
    check_status(status, EDGEJPEG_OK, "statistics");
    FUZZ_CHECK(statistics.components == static_cast<int32_t>(components), "statistics of other components");
    for (size_t c = 0; c < 3; ++c) {
      FUZZ_CHECK((statistics.blocks[c] > 0) == (c < components), "blocks[%zu]", c);
      for (size_t i = 0; i < 64; ++i) {
        const double mean = statistics.mean[c][i];
        const double variance = statistics.variance[c][i];
        const double scale = statistics.laplace_scale[c][i];
        const double most = c < components ? 1100 : 0;  // |C| <= 8 x 128, and some rounding
        FUZZ_CHECK(
            std::abs(mean) <= most && variance >= 0 && variance <= most * most && scale >= 0 && scale <= 2 * most,
            "component %zu, frequency %zu: %g, %g, %g", c, i, mean, variance, scale);
      }
    }
  }

  // One thread, the scalar back end, no history, no strides, another arrangement: the same bytes.
  void compare_with_new_handle(const Frame& frame, const std::vector<uint8_t>& file) const {
    edgejpeg_options options = settings_.options;
    options.threads = 1;
    edgejpeg_encoder* other = nullptr;
    const char* const found = std::getenv("EDGEJPEG_BACKEND");
    const std::vector<char> backend(found, found == nullptr ? nullptr : found + std::strlen(found) + 1);
    setenv("EDGEJPEG_BACKEND", "scalar", 1);
    check_status(edgejpeg_encoder_create(&options, &other), EDGEJPEG_OK, "create");
    if (found == nullptr) {
      unsetenv("EDGEJPEG_BACKEND");
    } else {
      setenv("EDGEJPEG_BACKEND", backend.data(), 1);
    }
    const Settings& s = settings_;
    if (s.mode == Settings::kFixed) {
      check_status(edgejpeg_encoder_set_tables(other, s.luma, s.has_chroma ? s.chroma : nullptr), EDGEJPEG_OK,
                   "tables");
    } else {
      check_status(edgejpeg_encoder_set_design(other, s.sensitivity, s.luma_level, s.chroma_level, s.q_max),
                   EDGEJPEG_OK, "set_design");
    }
    const char* const text = reinterpret_cast<const char*>(s.comment.data());
    check_status(edgejpeg_encoder_set_comment(other, text, s.comment.size()), EDGEJPEG_OK, "set_comment");

    edgejpeg_fuzz::OtherFrame rearranged;
    edgejpeg_fuzz::rearrange(frame, &rearranged);
    const edgejpeg_image& image = rearranged.image;
    const uint8_t* data = nullptr;
    size_t size = 0;
    check_status(edgejpeg_encoder_encode(other, &image, &data, &size), EDGEJPEG_OK, "encode with a new handle");
    FUZZ_CHECK(size == file.size() && std::memcmp(data, file.data(), size) == 0,
               "%d threads, strides %td and %td, a used handle: other bytes than a new one's", s.options.threads,
               frame.image.row_stride, frame.image.pixel_stride);
    edgejpeg_encoder_destroy(other);
  }

  Reader* reader_;
  edgejpeg_encoder* encoder_ = nullptr;
  Settings settings_;
  bool encoded_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Reader reader(data, size);
  Session(&reader).run();
  return 0;
}
