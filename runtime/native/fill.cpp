// Levels for a row of MCUs: rounded, or weighed against the length of their codes.
#include <algorithm>
#include <cstring>

#include "dct.h"
#include "encoder.h"

namespace edgejpeg {
namespace {

// The errors that TRIM and TRELLIS accept for a bit, in units of the noise: 2 ln 2 at high rates, and a little more.
constexpr double kDefaultWeight = 1.5;

template <typename Coefficient>
void weigh_block(const Coefficient* coefficients, const Trellis& trellis, bool trim, Block* block, int16_t* wide) {
  const uint64_t mask = block->mask;
  if (block->wide != 0) {
    block->mask =
        trim ? trim_block(coefficients, trellis, mask, wide) : trellis_block(coefficients, trellis, mask, wide);
  } else {
    block->mask = trim ? trim_block(coefficients, trellis, mask, block->levels)
                       : trellis_block(coefficients, trellis, mask, block->levels);
  }
}

}  // namespace

// From the stored coefficients or from the frame.
void Encoder::fill_row(const edgejpeg_image& image, size_t mcu_row, Row* row, Worker* worker) {
  StageClock clock(stages(worker));
  const bool stored = is_measured(mcu_row) && !exact_;
  if (!stored) {
    convert_mcu_row(image, geometry_, *backend_, mcu_row, mcu_row + threads_, &worker->strip);
    clock.lap(kColour);
  }
  if (sums_errors_) std::fill_n(row_errors_.data()[mcu_row], 3, 0.0);
  for (size_t c = 0; c < geometry_.components; ++c) {
    const Component& component = geometry_.component[c];
    const size_t stride = Strip::stride(geometry_, c);
    const size_t count = pairs(c);
    const Quantiser& quantiser = quantiser_[component.table];
    for (size_t line = 0; line < component.vertical; ++line) {
      const size_t block_row = mcu_row * component.vertical + line;
      if (block_row >= component.rows) break;
      const size_t offset = block_offset(c, line);
      Block* const blocks = row->blocks.data() + offset;
      int16_t* const levels = row->levels.data() + offset * kBlockSize;
      const int8_t* const samples = worker->strip.samples[c].data() + 8 * line * stride;
      if (exact_) {
        backend_->quantise_exactly(samples, stride, component.columns, used_[component.table],
                                   used_dead_zone_[component.table], blocks, levels);
      } else if (stored) {
        backend_->quantise(kept_line(c, block_row), count, kPairsAhead, quantiser, blocks, levels);
      } else {
        for (size_t pair = 0; pair < count; pair += kPortion) {
          const size_t portion = std::min(kPortion, count - pair);
          alignas(64) int16_t coefficients[kPortion * kPairSize];
          backend_->transform(samples + 16 * pair, stride, portion, coefficients);
          clock.lap(kTransform);
          backend_->quantise(coefficients, portion, 0, quantiser, blocks + 2 * pair, levels + pair * kPairSize);
          clock.lap(kQuantise);
        }
      }
      if (weighs_codes_) weigh_codes(c, block_row, samples, blocks, levels);
      clock.lap(kQuantise);
      if (sums_errors_) row_errors_.data()[mcu_row][c] += errors(c, block_row, samples, blocks, levels);
    }
  }
}

const int16_t* Encoder::kept_line(size_t component, size_t block_row) const {
  const size_t vertical = geometry_.component[component].vertical;
  const size_t stored_row = block_row / vertical / measure_step_ * vertical + block_row % vertical;
  return coefficients_[component].data() + stored_row * pairs(component) * kPairSize;
}

// In the layout of the coefficients that the levels are weighed against.
void Encoder::set_trellis(size_t c) {
  Trellis& trellis = trellis_[c];
  const uint8_t* const table = used_[geometry_.component[c].table];
  for (size_t k = 0; k < kBlockSize; ++k) {
    const size_t raster = kZigzag[k];
    const double step = table[raster];
    const double scale = is_reference() ? 1 : dct_scale(static_cast<int>(raster % 8));
    const double weight = mode_ == Mode::kDesigned ? design_.sensitivity[c][raster] : 1 / (step * step);
    trellis.coefficient[k] = static_cast<uint8_t>(is_reference() ? raster : 16 * (raster % 8) + raster / 8);
    trellis.step[k] = step * scale;
    trellis.weight[k] = weight / (scale * scale);
  }
}

void Encoder::set_trellis_lengths() {
  for (size_t c = 0; c < geometry_.components; ++c) {
    uint8_t lengths[256];
    for (size_t symbol = 0; symbol < 256; ++symbol) {
      const auto length = static_cast<uint8_t>(codes_[geometry_.component[c].table]->words[kAcCodeIndex + symbol]);
      lengths[symbol] = length > 0 ? length : uint8_t{16};
    }
    const double noise = mode_ != Mode::kDesigned ? 1.0 / 12 : c == 0 ? control_.water_level : chroma_water_level();
    set_trellis_rates(lengths, (trellis_weight_ > 0 ? trellis_weight_ : kDefaultWeight) * noise, &trellis_[c]);
  }
}

void Encoder::weigh_codes(size_t c, size_t block_row, const int8_t* samples, Block* blocks, int16_t* levels) const {
  const bool trim = quantization_ == EDGEJPEG_TRIM;
  for (size_t column = 0; column < geometry_.component[c].columns; ++column) {
    if (blocks[column].mask == 0) continue;
    int16_t* const wide = levels + column * kBlockSize;
    if (is_reference()) {
      double coefficients[kBlockSize];
      backend_->transform_exactly(samples + 8 * column, Strip::stride(geometry_, c), coefficients);
      weigh_block(coefficients, trellis_[c], trim, blocks + column, wide);
    } else {
      const int16_t* const coefficients = kept_line(c, block_row) + column / 2 * kPairSize + column % 2 * 8;
      weigh_block(coefficients, trellis_[c], trim, blocks + column, wide);
    }
  }
}

void Encoder::load_block(size_t c, size_t block_row, size_t column, const int8_t* samples, double* raster) const {
  if (is_reference()) {
    backend_->transform_exactly(samples + 8 * column, Strip::stride(geometry_, c), raster);
    return;
  }
  const int16_t* const block = kept_line(c, block_row) + column / 2 * kPairSize + column % 2 * 8;
  for (size_t u = 0; u < 8; ++u) {
    for (size_t v = 0; v < 8; ++v) raster[8 * v + u] = block[16 * u + v] / dct_scale(static_cast<int>(u));
  }
}

double Encoder::errors(size_t c, size_t block_row, const int8_t* samples, const Block* blocks,
                       const int16_t* levels) const {
  const uint8_t* const table = used_[geometry_.component[c].table];
  double sums[kBlockSize] = {};  // by zigzag position
  for (size_t column = 0; column < geometry_.component[c].columns; ++column) {
    const Block& block = blocks[column];
    double coefficients[kBlockSize];
    load_block(c, block_row, column, samples, coefficients);
    for (size_t k = 0; k < kBlockSize; ++k) {
      const size_t raster = kZigzag[k];
      const int level = k == 0 ? block.dc : block.wide != 0 ? levels[column * kBlockSize + k] : block.levels[k];
      const double error = coefficients[raster] - table[raster] * level;
      sums[k] += error * error;
    }
  }
  double sum = 0;
  for (size_t k = 0; k < kBlockSize; ++k) {
    sum += (mode_ == Mode::kDesigned ? design_.sensitivity[c][kZigzag[k]] : 1) * sums[k];
  }
  return sum;
}

void Encoder::weighted_errors(double* swe) {
  // Levels that came from the frame itself have been compared when they were made.
  if (!exact_) {
    const edgejpeg_image none = {};
    sums_errors_ = true;
    for (size_t first = 0; first < geometry_.mcu_rows; first += batch_) {
      pool_.for_each(std::min(batch_, geometry_.mcu_rows - first),
                     [&](size_t i, size_t worker) { fill_row(none, first + i, rows_ + i, workers_ + worker); });
    }
    sums_errors_ = false;
  }
  std::fill_n(swe, 3, 0.0);
  for (size_t row = 0; row < geometry_.mcu_rows; ++row) {
    for (size_t c = 0; c < geometry_.components; ++c) swe[c] += row_errors_.data()[row][c];
  }
}

}  // namespace edgejpeg
