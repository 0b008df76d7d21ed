// Parts of the entropy coder and the exact quantiser: plain C++ that every back end compiles with its own flags.
// Everything is in an unnamed namespace, so that no version can stand in for another when the library is linked.
#ifndef EDGEJPEG_ENTROPY_KERNEL_H_
#define EDGEJPEG_ENTROPY_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend.h"
#include "dct.h"

namespace edgejpeg {
namespace {

// The number of bits of a value's magnitude: its category [F.1.2.1]. The odd number keeps 0 from being a special case.
inline uint32_t category(int value) {
  const auto magnitude = static_cast<uint32_t>(value < 0 ? -value : value);
  return 31 - static_cast<uint32_t>(__builtin_clz(2 * magnitude + 1));
}

// 64 for 0.
inline size_t lowest_bit(uint64_t mask) {
#if defined(__BMI__)
  return __builtin_ia32_tzcnt_u64(mask);
#else
  return mask == 0 ? 64 : static_cast<size_t>(__builtin_ctzll(mask));
#endif
}

// Packs bits from the most significant one on. After flush() fewer than 8 bits wait; up to 56 more may be put before
// the next flush(): the DC with its 27 bits and one AC, or two AC of at most 26.
struct BitPacker {
  uint64_t bits = 0;
  uint32_t waiting = 0;
  uint8_t* out;

  // `word` is bits << 8 | number of bits.
  void put(uint32_t word) {
    const uint32_t length = word & 0xFF;
    bits = bits << length | word >> 8;
    waiting += length;
  }
  void put_value(uint32_t word, int value, uint32_t size) {
    const uint32_t length = (word & 0xFF) + size;
    const uint32_t ones = (1u << size) - 1;
    const uint32_t value_bits = static_cast<uint32_t>(value + (value >> 31)) & ones;
    bits = bits << length | (word >> 8) << size | value_bits;
    waiting += length;
  }
  void flush() {
    const uint64_t swapped = __builtin_bswap64(bits << ((64 - waiting) & 63));
    std::memcpy(out, &swapped, sizeof(swapped));
    out += waiting >> 3;
    waiting &= 7;
  }
};

// Whether sixteen zeros or more stand between two levels. Each level covers its place and the fifteen above it; without
// a gap that leaves ones from the DC on.
inline bool has_long_run(uint64_t mask) {
  uint64_t covered = mask | 1;
  covered |= covered << 1;
  covered |= covered << 2;
  covered |= covered << 4;
  covered |= covered << 8;
  return (covered & (covered + 1)) != 0;
}

inline int level_at(const Block& block, const int16_t* wide, size_t k) {
  return block.wide != 0 ? wide[k] : block.levels[k];
}

// Calls real(component, block, wide) or dummy(component) for the blocks of a row of MCUs in scan order.
template <size_t horizontal, size_t vertical, typename Real, typename Dummy>
[[gnu::always_inline]] inline void walk_row(const McuRow& row, Real real, Dummy dummy) {
  for (size_t mcu = 0; mcu < row.mcu_columns; ++mcu) {
    for (size_t line = 0; line < vertical; ++line) {
      for (size_t i = 0; i < horizontal; ++i) {
        const size_t column = mcu * horizontal + i;
        const McuRow::Plane& luma = row.plane[0];
        if ((horizontal == 1 || column < luma.columns) && (vertical == 1 || line < luma.lines)) {
          real(size_t{0}, luma.blocks[line][column], luma.levels[line] + column * kBlockSize);
        } else {
          dummy(size_t{0});
        }
      }
    }
    for (size_t c = 1; c < row.components; ++c) {
      real(c, row.plane[c].blocks[0][mcu], row.plane[c].levels[0] + mcu * kBlockSize);
    }
  }
}

template <typename Real, typename Dummy>
[[gnu::always_inline]] inline void walk_any_row(const McuRow& row, Real real, Dummy dummy) {
  if (row.plane[0].vertical == 2) {
    walk_row<2, 2>(row, real, dummy);
  } else if (row.plane[0].horizontal == 2) {
    walk_row<2, 1>(row, real, dummy);
  } else {
    walk_row<1, 1>(row, real, dummy);
  }
}

// Ends a row: the last byte, filled with zeros, and what append() reads behind it. Returns the number of bits.
inline size_t finish_row(const BitPacker& packer, const uint8_t* out) {
  const size_t bits = static_cast<size_t>(packer.out - out) * 8 + packer.waiting;
  const uint8_t last = packer.waiting == 0 ? uint8_t{0} : static_cast<uint8_t>(packer.bits << (8 - packer.waiting));
  std::memset(packer.out, 0, kBitSlack);
  *packer.out = last;
  return bits;
}

// Stores the levels of a block, int16 in zigzag order.
inline void store_levels(const int16_t* levels, Block* block, int16_t* wide) {
  bool is_wide = false;
  uint64_t mask = 0;
  for (size_t k = 1; k < kBlockSize; ++k) {
    is_wide |= levels[k] < -127 || levels[k] > 127;
    mask |= static_cast<uint64_t>(levels[k] != 0) << k;
    block->levels[k] = static_cast<int8_t>(levels[k]);
  }
  block->levels[0] = 0;
  block->levels[kBlockSize] = 0;
  block->wide = is_wide ? 1 : 0;
  block->dc = levels[0];
  block->mask = mask;
  if (is_wide) std::memcpy(wide, levels, kBlockSize * sizeof(*levels));
}

// The sums run in the order of the Python reference, so that both give the same last bit.
inline void forward_dct_exactly(const int8_t* samples, size_t stride, double* coefficients) {
  double horizontal[8][8];
  for (int row = 0; row < 8; ++row, samples += stride) {
    double sums[8] = {};
    for (int x = 0; x < 8; ++x) {
      const double sample = samples[x];
      for (int u = 0; u < 8; ++u) sums[u] += sample * kDctMatrix.value[x][u];
    }
    for (int u = 0; u < 8; ++u) horizontal[row][u] = sums[u];
  }
  for (int v = 0; v < 8; ++v) {
    double sums[8] = {};
    for (int row = 0; row < 8; ++row) {
      const double weight = kDctMatrix.value[row][v];
      for (int u = 0; u < 8; ++u) sums[u] += weight * horizontal[row][u];
    }
    for (int u = 0; u < 8; ++u) coefficients[8 * v + u] = sums[u];
  }
}

// level = sign(C) floor(|C| / q + 1/2), or 0 in the dead zone.
template <bool has_dead_zone>
void quantise_blocks_exactly(const int8_t* samples, size_t stride, size_t columns, const uint8_t* table,
                             const double* dead_zone, Block* blocks, int16_t* levels) {
  double steps[kBlockSize];
  double thresholds[kBlockSize];
  for (size_t i = 0; i < kBlockSize; ++i) {
    steps[i] = table[i];
    thresholds[i] = has_dead_zone ? dead_zone_threshold(dead_zone[i], steps[i]) : 0;
  }
  for (size_t column = 0; column < columns; ++column) {
    double coefficients[kBlockSize];
    forward_dct_exactly(samples + 8 * column, stride, coefficients);
    int32_t raster[kBlockSize];
    for (size_t i = 0; i < kBlockSize; ++i) {
      const double magnitude = __builtin_fabs(coefficients[i]);
      double rounded = magnitude / steps[i] + 0.5;
      if (has_dead_zone) rounded = magnitude < thresholds[i] ? 0 : rounded;
      // The conversion truncates, which is the floor of what is not negative; without a branch it is vectorised.
      raster[i] = static_cast<int32_t>(__builtin_copysign(rounded, coefficients[i]));
    }
    int16_t zigzag[kBlockSize];
    for (size_t k = 0; k < kBlockSize; ++k) zigzag[k] = static_cast<int16_t>(raster[kZigzag[k]]);
    store_levels(zigzag, blocks + column, levels + column * kBlockSize);
  }
}

void quantise_exactly(const int8_t* samples, size_t stride, size_t columns, const uint8_t* table,
                      const double* dead_zone, Block* blocks, int16_t* levels) {
  const auto quantise_blocks = dead_zone == nullptr ? quantise_blocks_exactly<false> : quantise_blocks_exactly<true>;
  quantise_blocks(samples, stride, columns, table, dead_zone, blocks, levels);
}

}  // namespace
}  // namespace edgejpeg

#endif  // EDGEJPEG_ENTROPY_KERNEL_H_
