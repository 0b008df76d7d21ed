// The plain back end: what the others compute, one value after another.
#include <cstdlib>

#include "backend.h"
#include "dct.h"
#include "entropy_kernel.h"

namespace edgejpeg {
namespace {

inline int multiply(int a, int b) { return (a * b + 16384) >> 15; }

// One dimension; `step` values apart.
void transform_line(int* d, size_t step) {
  const auto at = [=](size_t i) -> int& { return d[i * step]; };
  const int sum07 = at(0) + at(7);
  const int sum16 = at(1) + at(6);
  const int sum25 = at(2) + at(5);
  const int sum34 = at(3) + at(4);
  const int difference07 = at(0) - at(7);
  const int difference16 = at(1) - at(6);
  const int difference25 = at(2) - at(5);
  const int difference34 = at(3) - at(4);

  const int outer_sum = sum07 + sum34;
  const int outer_difference = sum07 - sum34;
  const int inner_sum = sum16 + sum25;
  const int rotated = multiply(sum16 - sum25 + outer_difference, kAanC4);
  at(0) = outer_sum + inner_sum;
  at(4) = outer_sum - inner_sum;
  at(2) = outer_difference + rotated;
  at(6) = outer_difference - rotated;

  const int low = difference34 + difference25;
  const int middle = multiply(difference25 + difference16, kAanC4);
  const int high = difference16 + difference07;
  const int shared = multiply(low - high, kAanC6);
  const int low_rotated = multiply(low, kAanC2MinusC6) + shared;
  const int high_rotated = high + multiply(high, kAanC2PlusC6) + shared;
  const int plus = difference07 + middle;
  const int minus = difference07 - middle;
  at(5) = minus + low_rotated;
  at(3) = minus - low_rotated;
  at(1) = plus + high_rotated;
  at(7) = plus - high_rotated;
}

void transform(const int8_t* samples, size_t stride, size_t pairs, int16_t* coefficients) {
  for (size_t block = 0; block < 2 * pairs; ++block, samples += 8) {
    int values[kBlockSize];  // row-major
    for (size_t y = 0; y < 8; ++y) {
      for (size_t x = 0; x < 8; ++x) values[8 * y + x] = samples[y * stride + x] * kDctInput;
    }
    for (size_t x = 0; x < 8; ++x) transform_line(values + x, 8);
    for (size_t v = 0; v < 8; ++v) {
      for (size_t x = 0; x < 8; ++x) values[8 * v + x] = multiply(values[8 * v + x], kNormalisation[v]);
      transform_line(values + 8 * v, 1);
    }
    int16_t* const out = coefficients + block / 2 * kPairSize + block % 2 * 8;
    for (size_t u = 0; u < 8; ++u) {
      for (size_t v = 0; v < 8; ++v) out[16 * u + v] = static_cast<int16_t>(values[8 * v + u]);
    }
  }
}

void accumulate(const int16_t* coefficients, size_t pairs, Sums* sums) {
  for (const int16_t* line = coefficients; line != coefficients + pairs * kPairSize; line += 8) {
    const size_t u = static_cast<size_t>(line - coefficients) % kPairSize / 16;
    for (size_t v = 0; v < 8; ++v) {
      const int64_t value = line[v];
      sums->value[8 * u + v] += value;
      sums->magnitude[8 * u + v] += std::abs(value);
      sums->square[8 * u + v] += value * value;
    }
  }
}

void quantise(const int16_t* coefficients, size_t pairs, size_t, const Quantiser& quantiser, Block* blocks,
              int16_t* levels) {
  for (size_t block = 0; block < 2 * pairs; ++block) {
    const int16_t* const in = coefficients + block / 2 * kPairSize + block % 2 * 8;
    int16_t transposed[kBlockSize];
    for (size_t i = 0; i < kBlockSize; ++i) {
      const int value = in[i / 8 * 16 + i % 8];
      const uint32_t magnitude = static_cast<uint32_t>(std::abs(value)) + quantiser.correction[i];
      int level = static_cast<int>((magnitude * quantiser.reciprocal[i]) >> 16 >> quantiser.shift[i]);
      if (std::abs(value) < quantiser.threshold[i]) level = 0;
      transposed[i] = static_cast<int16_t>(value < 0 ? -level : level);
    }
    int16_t zigzag[kBlockSize];
    for (size_t k = 0; k < kBlockSize; ++k) zigzag[k] = transposed[transpose_index(kZigzag[k])];
    store_levels(zigzag, blocks + block, levels + block * kBlockSize);
  }
}

[[gnu::noinline]] BitPacker write_ac_slowly(const Block& block, const int16_t* wide, const uint32_t* codes,
                                            BitPacker packer) {
  size_t previous = 0;
  for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
    const size_t k = lowest_bit(mask);
    size_t run = k - previous - 1;
    previous = k;
    for (; run >= 16; run -= 16) {
      packer.put(codes[kAcCodeIndex + kSixteenZeros]);
      packer.flush();
    }
    const int level = level_at(block, wide, k);
    const uint32_t size = category(level);
    packer.put_value(codes[kAcCodeIndex + (run << 4 | size)], level, size);
    packer.flush();
  }
  return packer;
}

// The packer goes in and out by value: in registers, where the bytes it writes cannot be thought to change it.
[[gnu::always_inline]] inline BitPacker write_block(const Block& block, const int16_t* wide, int* previous_dc,
                                                    const uint32_t* codes, BitPacker packer) {
  const int difference = block.dc - *previous_dc;
  *previous_dc = block.dc;
  const uint32_t size = category(difference);
  packer.put_value(codes[kDcCodeIndex + size], difference, size);
  uint64_t mask = block.mask;
  if (__builtin_expect(block.wide != 0 || has_long_run(mask), 0)) {
    packer.flush();
    packer = write_ac_slowly(block, wide, codes, packer);
  } else if (mask != 0) {
    size_t previous = 0;
    // Behind the last level this finds levels[64], which is 0, and its word is 0.
    const auto put_next = [&] {
      const size_t k = lowest_bit(mask);
      mask &= mask - 1;
      packer.put(codes[ac_row(k - previous) | static_cast<uint8_t>(block.levels[k])]);
      previous = k;
    };
    put_next();
    packer.flush();
    while (mask != 0) {
      put_next();
      put_next();
      packer.flush();
    }
  }
  if (block.mask >> 63 == 0) packer.put(codes[kAcCodeIndex + kEndOfBlock]);
  packer.flush();
  return packer;
}

inline BitPacker write_dummy(const uint32_t* codes, BitPacker packer) {
  packer.put(codes[kDcCodeIndex]);
  packer.put(codes[kAcCodeIndex + kEndOfBlock]);
  packer.flush();
  return packer;
}

inline void count_block(const Block& block, const int16_t* wide, int* previous_dc, SymbolCounts* dc, SymbolCounts* ac) {
  ++dc->count[category(block.dc - *previous_dc)];
  *previous_dc = block.dc;
  size_t previous = 0;
  for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
    const size_t k = lowest_bit(mask);
    size_t run = k - previous - 1;
    previous = k;
    for (; run >= 16; run -= 16) ++ac->count[kSixteenZeros];
    ++ac->count[run << 4 | category(level_at(block, wide, k))];
  }
  if (block.mask >> 63 == 0) ++ac->count[kEndOfBlock];
}

inline void count_dummy(SymbolCounts* dc, SymbolCounts* ac) {
  ++dc->count[0];
  ++ac->count[kEndOfBlock];
}

size_t write_row(const McuRow& row, int* previous_dc, const EntropyCodes* const codes[2], uint8_t* out) {
  BitPacker packer;
  packer.out = out;
  const uint32_t* const chroma = codes[row.components > 1 ? 1 : 0]->words;
  const uint32_t* const slots[3] = {codes[0]->words, chroma, chroma};
  walk_any_row(
      row,
      [&](size_t c, const Block& block, const int16_t* wide)
          __attribute__((always_inline)) { packer = write_block(block, wide, previous_dc + c, slots[c], packer); },
      [&](size_t c) { packer = write_dummy(slots[c], packer); });
  return finish_row(packer, out);
}

void count_row(const McuRow& row, int* previous_dc, SymbolCounts* dc, SymbolCounts* ac, CountedRow* counted) {
  if (counted != nullptr) counted->size = 0;
  walk_any_row(
      row,
      [&](size_t c, const Block& block, const int16_t* wide) {
        const size_t slot = c == 0 ? 0 : 1;
        count_block(block, wide, previous_dc + c, dc + slot, ac + slot);
      },
      [&](size_t c) { count_dummy(dc + (c == 0 ? 0 : 1), ac + (c == 0 ? 0 : 1)); });
}

uint8_t* append(const uint8_t* in, size_t bytes, unsigned shift, uint8_t* out) {
  for (const uint8_t* p = in; p != in + bytes; ++p) {
    const auto value = static_cast<uint8_t>((p[-1] << 8 | p[0]) >> shift);
    *out++ = value;
    if (value == 0xFF) *out++ = 0;
  }
  return out;
}

}  // namespace

const Backend kScalarBackend = {"scalar",  &kScalarColour, transform, accumulate, quantise, quantise_exactly,
                                count_row, write_row,      nullptr,   append,     nullptr};

const Backend kReferenceBackend = {"reference", &kScalarColour,   transform,          accumulate,
                                   quantise,    quantise_exactly, count_row,          write_row,
                                   nullptr,     append,           forward_dct_exactly};

}  // namespace edgejpeg
