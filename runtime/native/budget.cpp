// What a frame is coded with, where that is not given: for a budget of bytes, or for a slope.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "control.h"
#include "encoder.h"

namespace edgejpeg {
namespace {

// More follow only while none has met the budget.
constexpr int kMaxEncodes = 2;

// Rows are left out of a count as long as so many blocks remain: for a size, and for the shape of a curve.
constexpr size_t kBlocksForSize = 5120;
constexpr size_t kBlocksForCurve = 4096;
constexpr size_t kMaxStride = 12;

// All segments but the symbols of the Huffman tables and the scan; one component, three.
constexpr double kSegmentBytes[2] = {156, 277};
constexpr double kStuffing = 1.004;

// Twenty bits: the tables must not hang on the last digit of a logarithm, which differs between machines.
double rounded(double control) {
  int exponent = 0;
  const double fraction = std::frexp(control, &exponent);
  return std::ldexp(std::floor(std::ldexp(fraction, 20) + 0.5), exponent - 20);
}

uint64_t bits_of(const SymbolCounts& counts, const uint32_t* code_words, size_t symbols) {
  uint64_t bits = 0;
  for (size_t symbol = 0; symbol < symbols; ++symbol) {
    bits += counts.count[symbol] * ((code_words[symbol] & 0xFF) + symbol % 16);
  }
  return bits;
}

}  // namespace

size_t Encoder::budget(const edgejpeg_image& image) const {
  size_t bytes = max_bytes_ > 0 ? max_bytes_ : std::numeric_limits<size_t>::max();
  if (max_bits_per_pixel_ > 0) {
    const double limit = max_bits_per_pixel_ / 8 * image.width * image.height;
    if (limit < static_cast<double>(bytes)) bytes = static_cast<size_t>(limit);
  }
  return bytes;
}

edgejpeg_status Encoder::fit_control(const edgejpeg_image& image, size_t budget) {
  StageClock clock(stages(workers_));
  const double* const dead_zone[2] = {has_dead_zone_[0] ? dead_zone_[0] : nullptr,
                                      has_dead_zone_[1] ? dead_zone_[1] : nullptr};
  const uint8_t* const tables[2] = {fixed_[0], fixed_[1]};
  const bool designed = mode_ == Mode::kDesigned;
  RateModel model = designed ? RateModel(design_, statistics_, dead_zone, effort_)
                             : RateModel(tables, statistics_, dead_zone, effort_);
  if (comment_size_ > 0) model.add_header_bytes(static_cast<double>(comment_size_ + 4));
  BudgetSearch search(model, budget, designed ? design_.luma_water_level : 1, kMaxEncodes);
  size_t size = 0;
  double counted_then = 0;  // of the last file
  do {
    double counted = 0;
    double expected = 0;
    do {
      Control control = given_control();
      (designed ? control.water_level : control.scale) = rounded(search.control());
      set_control(control);
      clock.lap(kDesign);
      counted = counted_bytes(image, kBlocksForSize);
      expected = size > 0 ? counted * static_cast<double>(size) / counted_then : counted;
      clock = StageClock(stages(workers_));
    } while (search.refine(expected));
    counted_then = counted;
    if (!write_file(image)) return EDGEJPEG_OUT_OF_MEMORY;
    size = file_.size();
    if (size <= budget && size > kept_file_.size()) keep_file();
    clock = StageClock(stages(workers_));
  } while (search.report(size));
  if (!search.met()) {
    smallest_size_ = search.best_size();
    return EDGEJPEG_BUDGET_NOT_MET;
  }
  take_kept_file();
  return EDGEJPEG_OK;
}

edgejpeg_status Encoder::fit_level(const edgejpeg_image& image, size_t budget, size_t highest, LevelCurve* curve) {
  level_bytes(image, level_expected_to_fit(*curve, budget, highest), curve);
  LevelSearch search(budget, highest, level_expected_to_fit(*curve, budget, highest));
  size_t size = 0;
  do {
    set_control({0, 1, static_cast<int32_t>(search.level())});
    if (!write_file(image)) return EDGEJPEG_OUT_OF_MEMORY;
    size = file_.size();
    if (size <= budget) keep_file();
  } while (search.report(
      size, [&](size_t other) { return level_bytes(image, other, curve); },
      [&](size_t other) {
        set_control({0, 1, static_cast<int32_t>(other)});
        return counted_bytes(image, std::numeric_limits<size_t>::max());
      }));
  if (!search.met()) {
    smallest_size_ = search.smallest();
    return EDGEJPEG_BUDGET_NOT_MET;
  }
  take_kept_file();
  return EDGEJPEG_OK;
}

size_t Encoder::level_of_slope(const edgejpeg_image& image, LevelCurve* curve) {
  SlopeSearch search(*curve, slope_);
  do {
    level_bytes(image, search.level(), curve);
  } while (search.next());
  return search.level();
}

double Encoder::level_bytes(const edgejpeg_image& image, size_t level, LevelCurve* curve) {
  if (!curve->is_known(level)) {
    set_control({0, 1, static_cast<int32_t>(level)});
    curve->set(level, counted_bytes(image, kBlocksForCurve));
  }
  return curve->bytes(level);
}

size_t Encoder::sampling_stride(size_t blocks, size_t most) const {
  size_t all = 0;
  for (size_t c = 0; c < geometry_.components; ++c) all += geometry_.component[c].blocks();
  return std::clamp(all / blocks, size_t{1}, std::min(most, geometry_.mcu_rows));
}

double Encoder::counted_bytes(const edgejpeg_image& image, size_t blocks) {
  // The kept coefficients are good enough for a count, however fine the tables are.
  const bool was_exact = exact_;
  exact_ = is_reference();
  sums_errors_ = false;
  for (size_t slot = 0; slot < (geometry_.components == 1 ? 1u : 2u) && was_exact && !exact_; ++slot) {
    quantiser_[slot] = make_quantiser(used_[slot], used_dead_zone_[slot]);
  }
  choose_trellis_lengths(image);
  // Stored tables are those that the file will have; tables of its own are made for what is counted.
  const bool is_stored = source_ == HuffmanSource::kStandard || source_ == HuffmanSource::kStored;
  if (is_stored) choose_from_sample(image);
  const size_t rows = count_symbols(image, sampling_stride(blocks, kMaxStride));
  if (!is_stored) make_optimal_tables(false);
  exact_ = was_exact;
  sums_errors_ = exact_ && is_kept_;
  const size_t slots = geometry_.components == 1 ? 1 : 2;
  double bytes = kSegmentBytes[slots - 1] + static_cast<double>(comment_size_);
  uint64_t bits = 0;
  for (size_t slot = 0; slot < slots; ++slot) {
    bytes += static_cast<double>(dc_[slot].size + ac_[slot].size);
    bits += bits_of(workers_[0].dc[slot], codes_[slot]->words + kDcCodeIndex, 16) +
            bits_of(workers_[0].ac[slot], codes_[slot]->words + kAcCodeIndex, 256);
  }
  const double share = static_cast<double>(rows) / static_cast<double>(geometry_.mcu_rows);
  return bytes + kStuffing / 8 * static_cast<double>(bits) / share;
}

void Encoder::keep_file() {
  file_.swap(kept_file_);
  row_errors_.swap(kept_row_errors_);
  kept_control_ = control_;
  for (size_t c = 0; c < 3 && weighs_codes_; ++c) kept_trellis_[c] = trellis_[c];
}

void Encoder::take_kept_file() {
  file_.swap(kept_file_);
  row_errors_.swap(kept_row_errors_);
  set_control(kept_control_);
  for (size_t c = 0; c < 3 && weighs_codes_; ++c) trellis_[c] = kept_trellis_[c];
}

}  // namespace edgejpeg
