// The first pass of a designed frame: coefficients and their statistics.
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

// Colour, DCT and statistics of the whole frame.
void Encoder::measure(const edgejpeg_image& image) {
  for (size_t i = 0; i < threads_; ++i) std::memset(workers_[i].sums, 0, sizeof(workers_[i].sums));
  // From the bottom up: the coefficients that are quantised first are those that were stored last, still in a cache.
  pool_.for_each(geometry_.mcu_rows, [&](size_t item, size_t worker_index) {
    const size_t mcu_row = geometry_.mcu_rows - 1 - item;
    Worker& worker = workers_[worker_index];
    convert_mcu_row(image, geometry_, *backend_, mcu_row, &worker.strip);
    for (size_t c = 0; c < geometry_.components; ++c) {
      const Component& component = geometry_.component[c];
      const size_t stride = Strip::stride(geometry_, c);
      const size_t count = pairs(c);
      for (size_t line = 0; line < component.vertical; ++line) {
        const size_t row = mcu_row * component.vertical + line;
        if (row >= component.rows) break;
        const int8_t* const samples = worker.strip.samples[c].data() + 8 * line * stride;
        int16_t* const out = coefficients_[c].data() + row * count * kPairSize;
        for (size_t pair = 0; pair < count; pair += kPortion) {
          const size_t portion = std::min(kPortion, count - pair);
          int16_t* const coefficients = out + pair * kPairSize;
          backend_->transform(samples + 16 * pair, stride, portion, coefficients);
          if (pair + portion == count && component.columns % 2 != 0) {
            clear_second_block(coefficients + (portion - 1) * kPairSize);
          }
          backend_->accumulate(coefficients, portion, &worker.sums[c]);
        }
      }
    }
  });
  statistics_ = {};
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (size_t c = 0; c < geometry_.components; ++c) {
    Sums total = {};
    for (size_t i = 0; i < threads_; ++i) total.add(workers_[i].sums[c]);
    finish_statistics(total, geometry_.component[c].blocks(), c, &statistics_);
  }
}

void Encoder::measure_exactly(const edgejpeg_image& image) {
  statistics_ = {};
  statistics_.components = static_cast<int32_t>(geometry_.components);
  for (const bool around_mean : {false, true}) {
    for (size_t mcu_row = 0; mcu_row < geometry_.mcu_rows; ++mcu_row) {
      convert_mcu_row(image, geometry_, *backend_, mcu_row, &workers_->strip);
      for (size_t c = 0; c < geometry_.components; ++c) sum_exactly(mcu_row, c, around_mean);
    }
    for (size_t c = 0; c < geometry_.components; ++c) {
      const size_t blocks = geometry_.component[c].blocks();
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
