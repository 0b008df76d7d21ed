// The first pass of a designed frame: coefficients and their statistics, of all rows of MCUs or of a sample.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "encoder.h"

namespace edgejpeg {
namespace {

// A last pair of which only the first block is real must not enter the statistics.
void clear_second_block(int16_t* pair) {
  for (size_t u = 0; u < 8; ++u) std::memset(pair + 16 * u + 8, 0, 8 * sizeof(*pair));
}

}  // namespace

// Colour, DCT and statistics.
void Encoder::measure(const edgejpeg_image& image) {
  for (size_t i = 0; i < threads_; ++i) std::memset(workers_[i].sums, 0, sizeof(workers_[i].sums));
  // From the bottom up: the coefficients that are quantised first are those that were stored last, still in a cache.
  const size_t rows = measured_rows();
  pool_.for_each(rows, [&](size_t item, size_t worker_index) {
    const size_t index = rows - 1 - item;
    const size_t mcu_row = index * measure_step_ + measure_step_ / 2;
    Worker& worker = workers_[worker_index];
    StageClock clock(stages(&worker));
    convert_mcu_row(image, geometry_, *backend_, mcu_row, mcu_row - std::min(mcu_row, threads_ * measure_step_),
                    &worker.strip);
    clock.lap(kColour);
    for (size_t c = 0; c < geometry_.components; ++c) {
      const Component& component = geometry_.component[c];
      const size_t stride = Strip::stride(geometry_, c);
      const size_t count = pairs(c);
      for (size_t line = 0; line < component.vertical; ++line) {
        if (mcu_row * component.vertical + line >= component.rows) break;
        const int8_t* const samples = worker.strip.samples[c].data() + 8 * line * stride;
        int16_t* const out = coefficients_[c].data() + (index * component.vertical + line) * count * kPairSize;
        for (size_t pair = 0; pair < count; pair += kPortion) {
          const size_t portion = std::min(kPortion, count - pair);
          int16_t* const coefficients = out + pair * kPairSize;
          backend_->transform(samples + 16 * pair, stride, portion, coefficients);
          if (pair + portion == count && component.columns % 2 != 0) {
            clear_second_block(coefficients + (portion - 1) * kPairSize);
          }
          if (needs_statistics()) backend_->accumulate(coefficients, portion, &worker.sums[c]);
        }
      }
    }
    clock.lap(kTransform);
  });
  statistics_ = {};
  if (!needs_statistics()) return;
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (size_t c = 0; c < geometry_.components; ++c) {
    Sums total = {};
    for (size_t i = 0; i < threads_; ++i) total.add(workers_[i].sums[c]);
    finish_statistics(total, measured_blocks(c), c, &statistics_);
  }
}

size_t Encoder::measured_blocks(size_t c) const {
  const Component& component = geometry_.component[c];
  size_t lines = 0;
  for (size_t i = 0; i < measured_rows(); ++i) {
    const size_t first = (i * measure_step_ + measure_step_ / 2) * component.vertical;
    lines += std::min(component.vertical, component.rows - first);
  }
  return lines * component.columns;
}

void Encoder::measure_exactly(const edgejpeg_image& image) {
  statistics_ = {};
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (const bool around_mean : {false, true}) {
    for (size_t mcu_row = measure_step_ / 2; mcu_row < geometry_.mcu_rows; mcu_row += measure_step_) {
      convert_mcu_row(image, geometry_, *backend_, mcu_row, mcu_row + measure_step_, &workers_->strip);
      for (size_t c = 0; c < geometry_.components; ++c) sum_exactly(mcu_row, c, around_mean);
    }
    for (size_t c = 0; c < geometry_.components; ++c) {
      const size_t blocks = measured_blocks(c);
      statistics_.blocks[c] = static_cast<int64_t>(blocks);
      for (size_t i = 0; i < kBlockSize; ++i) {
        if (around_mean) {
          statistics_.variance[c][i] /= static_cast<double>(blocks);
        } else {
          statistics_.mean[c][i] /= static_cast<double>(blocks);
          statistics_.laplace_scale[c][i] /= static_cast<double>(blocks);
        }
      }
    }
  }
}

void Encoder::sum_exactly(size_t mcu_row, size_t c, bool around_mean) {
  const Component& component = geometry_.component[c];
  const size_t stride = Strip::stride(geometry_, c);
  for (size_t line = 0; line < component.vertical && mcu_row * component.vertical + line < component.rows; ++line) {
    const int8_t* samples = workers_->strip.samples[c].data() + 8 * line * stride;
    for (size_t column = 0; column < component.columns; ++column, samples += 8) {
      double coefficients[kBlockSize];
      backend_->transform_exactly(samples, stride, coefficients);
      for (size_t i = 0; i < kBlockSize; ++i) {
        if (around_mean) {
          const double difference = coefficients[i] - statistics_.mean[c][i];
          statistics_.variance[c][i] += difference * difference;
        } else {
          statistics_.mean[c][i] += coefficients[i];
          statistics_.laplace_scale[c][i] += std::fabs(coefficients[i]);
        }
      }
    }
  }
}

}  // namespace edgejpeg
