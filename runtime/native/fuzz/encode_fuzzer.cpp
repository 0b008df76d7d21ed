// Sequences of calls on one encoder handle, against a model of what the header promises.
//
// Every file is read to its last bit, and compared with what a new handle with one thread and the scalar back end makes
// of the same frame without its strides, its samples arranged in another way. A budget that cannot be met is tried
// again with the size that was said to be the smallest.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <vector>

#include "check.h"
#include "edgejpeg.h"
#include "frame.h"
#include "reader.h"
#include "result_check.h"
#include "settings.h"

namespace {

using edgejpeg_fuzz::check_status;
using edgejpeg_fuzz::DeadZone;
using edgejpeg_fuzz::Frame;
using edgejpeg_fuzz::Noise;
using edgejpeg_fuzz::Reader;
using edgejpeg_fuzz::Settings;

constexpr size_t kMaxCalls = 12;

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
      case 10:
        set_control();
        break;
      default:
        encode();
    }
  }

  // What chooses among tables, and what is done with them.
  void set_control() {
    switch (reader_->choice(8)) {
      case 0:
      case 1:
      case 2:
        set_budget();
        break;
      case 3:
      case 4:
        set_ladder();
        break;
      case 5:
        set_level();
        break;
      case 6:
        set_slope();
        break;
      default:
        set_dead_zone();
    }
  }

  void create() {
    edgejpeg_options options = {};
    const bool valid = edgejpeg_fuzz::read_options(reader_, &options);
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

  void set_tables() {
    uint8_t luma[64];
    uint8_t chroma[64];
    bool valid = edgejpeg_fuzz::read_table(reader_, luma);
    const bool has_chroma = !reader_->once_in(8);
    if (has_chroma) valid = edgejpeg_fuzz::read_table(reader_, chroma) && valid;
    const edgejpeg_status status = edgejpeg_encoder_set_tables(encoder_, luma, has_chroma ? chroma : nullptr);
    check_status(status, valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_tables");
    if (!valid) return;
    settings_.mode = Settings::kFixed;
    settings_.has_chroma = has_chroma;
    std::memcpy(settings_.luma, luma, 64);
    if (has_chroma) std::memcpy(settings_.chroma, chroma, 64);
  }

  void set_design() {
    double sensitivity[3 * 64];
    const size_t kind = reader_->choice(4);
    Noise noise(reader_->any<uint16_t>());
    const double scale = edgejpeg_fuzz::read_number(reader_);
    bool valid = true;
    for (size_t i = 0; i < std::size(sensitivity); ++i) {
      sensitivity[i] = kind == 0   ? scale
                       : kind == 1 ? scale / static_cast<double>(1 + i % 64)
                       : kind == 2 ? std::pow(10.0, static_cast<double>(noise.next() % 600) - 300)
                                   : scale * static_cast<double>(noise.next() % 1000);
    }
    if (reader_->once_in(4)) sensitivity[reader_->choice(std::size(sensitivity))] = edgejpeg_fuzz::read_number(reader_);
    for (double s : sensitivity) valid = valid && std::isfinite(s) && s >= 0;
    const double luma_level = edgejpeg_fuzz::read_number(reader_);
    const double chroma_level = reader_->once_in(2) ? edgejpeg_fuzz::read_number(reader_) : luma_level;
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

  // Budgets of any size; mostly of the order of a small frame's file.
  void set_budget() {
    size_t max_bytes = 0;
    double bits = 0;
    const size_t kind = reader_->choice(8);
    if (kind != 1) max_bytes = static_cast<size_t>(reader_->range(0, 0xFFFF)) >> reader_->choice(9);
    if (kind == 0) max_bytes = reader_->any<size_t>();
    if (kind == 1 || kind == 2) bits = reader_->range(0, 8000) / 1000.0;
    if (kind == 3) bits = edgejpeg_fuzz::read_number(reader_);
    const bool valid = std::isfinite(bits) && bits >= 0;
    check_status(edgejpeg_encoder_set_budget(encoder_, max_bytes, bits),
                 valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_budget");
    if (!valid) return;
    settings_.max_bytes = max_bytes;
    settings_.max_bits_per_pixel = bits;
  }

  void set_ladder() {
    Settings changed = settings_;
    bool valid = edgejpeg_fuzz::read_levels(reader_, &changed.levels);
    const auto count = static_cast<int32_t>(changed.levels.size());
    changed.level = reader_->range(0, count - 1);
    if (reader_->once_in(32)) changed.level = reader_->once_in(2) ? count : -1;
    valid = valid && changed.level >= 0 && changed.level < count;
    check_status(changed.apply_ladder(encoder_), valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_ladder");
    if (!valid) return;
    changed.mode = Settings::kLadder;
    changed.has_chroma = changed.levels[0].has_chroma;
    changed.has_slope = false;
    settings_ = changed;
  }

  void set_level() {
    const int32_t level = reader_->range(-1, EDGEJPEG_MAX_LEVELS);
    const bool valid = level >= 0 && level < static_cast<int32_t>(settings_.levels.size());
    const edgejpeg_status expected = settings_.mode != Settings::kLadder ? EDGEJPEG_NOT_READY
                                     : valid                             ? EDGEJPEG_OK
                                                                         : EDGEJPEG_INVALID_ARGUMENT;
    check_status(edgejpeg_encoder_set_level(encoder_, level), expected, "set_level");
    if (expected != EDGEJPEG_OK) return;
    settings_.level = level;
    settings_.has_slope = false;
  }

  void set_slope() {
    const double slope = reader_->once_in(4) ? edgejpeg_fuzz::read_number(reader_)
                                             : reader_->range(0, 0xFFFF) / (1.0 + reader_->range(0, 255));
    const bool valid = std::isfinite(slope) && slope >= 0;
    const edgejpeg_status expected = settings_.mode != Settings::kLadder ? EDGEJPEG_NOT_READY
                                     : valid                             ? EDGEJPEG_OK
                                                                         : EDGEJPEG_INVALID_ARGUMENT;
    check_status(edgejpeg_encoder_set_slope(encoder_, slope), expected, "set_slope");
    if (expected != EDGEJPEG_OK) return;
    settings_.slope = slope;
    settings_.has_slope = true;
  }

  void set_dead_zone() {
    DeadZone zone;
    const bool valid = edgejpeg_fuzz::read_dead_zone(reader_, &zone);
    check_status(edgejpeg_encoder_set_dead_zone(encoder_, zone.slot(0), zone.slot(1)),
                 valid ? EDGEJPEG_OK : EDGEJPEG_INVALID_ARGUMENT, "set_dead_zone");
    if (valid) settings_.dead_zone = zone;
  }

  void set_comment() {
    constexpr size_t kSizes[] = {0, 1, EDGEJPEG_MAX_COMMENT, EDGEJPEG_MAX_COMMENT + 1, 1 << 17};
    const size_t kind = reader_->choice(16);
    std::vector<uint8_t> text(kind < std::size(kSizes) ? kSizes[kind] : reader_->choice(64));
    for (size_t i = 0; i < text.size(); ++i) text[i] = i < 64 ? reader_->any<uint8_t>() : 0xFF;
    const edgejpeg_status status =
        edgejpeg_encoder_set_comment(encoder_, reinterpret_cast<const char*>(text.data()), text.size());
    const bool valid = text.size() <= settings_.max_comment();
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
    edgejpeg_result result = {};
    edgejpeg_level level = {};
    double errors[3] = {};
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
        edgejpeg_encoder_result(nullptr, &result),
        edgejpeg_encoder_result(encoder_, nullptr),
        edgejpeg_encoder_swe(nullptr, errors),
        edgejpeg_encoder_swe(encoder_, nullptr),
        edgejpeg_encoder_set_dead_zone(nullptr, nullptr, nullptr),
        edgejpeg_encoder_set_ladder(nullptr, &level, 1, 0),
        edgejpeg_encoder_set_ladder(encoder_, nullptr, 1, 0),
        edgejpeg_encoder_set_ladder(encoder_, &level, 1, 0),
        edgejpeg_encoder_set_ladder(encoder_, &level, 0, 0),
        edgejpeg_encoder_set_ladder(encoder_, &level, EDGEJPEG_MAX_LEVELS + 1, 0),
        edgejpeg_encoder_set_level(nullptr, 0),
        edgejpeg_encoder_set_slope(nullptr, 0),
        edgejpeg_encoder_set_budget(nullptr, 0, 0),
    };
    for (edgejpeg_status status : statuses) check_status(status, EDGEJPEG_INVALID_ARGUMENT, "a call with NULL");
    FUZZ_CHECK(created == nullptr, "created an encoder without options");
    edgejpeg_encoder_destroy(nullptr);
  }

  // Questions between the frames are answered, or refused, but never with an encoder that is worse afterwards.
  void ask() {
    if (!encoded_) return edgejpeg_fuzz::check_no_result(encoder_);
    edgejpeg_fuzz::check_same_result(encoder_, encoder_);
    FUZZ_CHECK(edgejpeg_version()[0] != '\0', "no version");
  }

  void encode() {
    const Frame frame = edgejpeg_fuzz::read_frame(reader_);
    std::vector<uint8_t> before[3];
    for (size_t i = 0; i < 3; ++i) before[i] = frame.planes[i].copy();
    edgejpeg_status expected = settings_.expected(frame);
    static const uint8_t untouched = 0;
    const uint8_t* data = &untouched;
    size_t size = 12345;
    const edgejpeg_status status = edgejpeg_encoder_encode(encoder_, &frame.image, &data, &size);
    for (size_t i = 0; i < 3; ++i) FUZZ_CHECK(frame.planes[i] == before[i], "plane %zu was written to", i);
    if (expected == EDGEJPEG_OK && status == EDGEJPEG_BUDGET_NOT_MET) {
      FUZZ_CHECK(settings_.has_budget(), "no budget, and it is not met");
      FUZZ_CHECK(data == nullptr && size > settings_.budget(frame.image), "the smallest file has %zu bytes", size);
      return refused_budget(frame, size);
    }
    check_status(status, expected, "encode");
    if (status != EDGEJPEG_OK) {
      FUZZ_CHECK((data == nullptr && size == 0) || (data == &untouched && size == 12345), "a failure with bytes");
      return;
    }
    encoded_ = true;
    const std::vector<uint8_t> file(data, data + size);
    edgejpeg_fuzz::check_result(encoder_, settings_, frame, file);
    if (reader_->once_in(4)) {
      check_status(edgejpeg_encoder_encode(encoder_, &frame.image, &data, &size), EDGEJPEG_OK, "encode again");
      FUZZ_CHECK(file == std::vector<uint8_t>(data, data + size), "the same frame, other bytes");
    }
    compare_with_new_handle(frame, EDGEJPEG_OK, file, size);
    encode_to(frame, file);
  }

  // The size that is said to be the smallest is enough, and a byte less is refused again unless that much was found.
  void refused_budget(const Frame& frame, size_t smallest) {
    encoded_ = false;
    edgejpeg_fuzz::check_no_result(encoder_);
    std::vector<uint8_t> out(smallest + 1, 0xA5);
    size_t size = 12345;
    check_status(edgejpeg_encoder_encode_to(encoder_, &frame.image, out.data(), out.size(), &size),
                 EDGEJPEG_BUDGET_NOT_MET, "encode_to without enough bytes");
    FUZZ_CHECK(size == smallest && std::count(out.begin(), out.end(), 0xA5) == static_cast<ptrdiff_t>(out.size()),
               "a refused call wrote bytes, or said %zu and not %zu", size, smallest);
    compare_with_new_handle(frame, EDGEJPEG_BUDGET_NOT_MET, {}, smallest);
    const Settings given = settings_;
    settings_.max_bits_per_pixel = 0;
    const uint8_t* data = nullptr;
    for (size_t budget : {smallest, smallest - 1}) {
      settings_.max_bytes = budget;
      check_status(edgejpeg_encoder_set_budget(encoder_, budget, 0), EDGEJPEG_OK, "set_budget");
      const edgejpeg_status status = edgejpeg_encoder_encode(encoder_, &frame.image, &data, &size);
      if (status == EDGEJPEG_OK) {
        edgejpeg_fuzz::check_result(encoder_, settings_, frame, std::vector<uint8_t>(data, data + size));
        continue;
      }
      check_status(status, EDGEJPEG_BUDGET_NOT_MET, "encode with the smallest size");
      FUZZ_CHECK(budget < smallest && size == smallest, "%zu bytes are not enough, %zu are said to be", budget, size);
    }
    settings_ = given;
    check_status(edgejpeg_encoder_set_budget(encoder_, given.max_bytes, given.max_bits_per_pixel), EDGEJPEG_OK,
                 "set_budget");
    check_status(edgejpeg_encoder_encode(encoder_, &frame.image, &data, &size), EDGEJPEG_BUDGET_NOT_MET,
                 "encode as at first");
    FUZZ_CHECK(size == smallest, "the smallest file has %zu bytes, then %zu", smallest, size);
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

  // One thread, the scalar back end, no history, no strides, another arrangement: the same bytes.
  void compare_with_new_handle(const Frame& frame, edgejpeg_status expected, const std::vector<uint8_t>& file,
                               size_t expected_size) const {
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
    settings_.apply(other);

    edgejpeg_fuzz::OtherFrame rearranged;
    edgejpeg_fuzz::rearrange(frame, &rearranged);
    const edgejpeg_image& image = rearranged.image;
    const uint8_t* data = nullptr;
    size_t size = 0;
    check_status(edgejpeg_encoder_encode(other, &image, &data, &size), expected, "encode with a new handle");
    FUZZ_CHECK(size == expected_size && (data == nullptr || std::memcmp(data, file.data(), size) == 0),
               "%d threads, strides %td and %td, a used handle: other bytes than a new one's",
               settings_.options.threads, frame.image.row_stride, frame.image.pixel_stride);
    if (expected == EDGEJPEG_OK) edgejpeg_fuzz::check_same_result(encoder_, other);
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
