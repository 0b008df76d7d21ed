// The entropy coder of the vector back ends: the bits that scalar.cpp writes, in three steps in which few branches
// depend on the picture. For some MCUs at a time it collects the nonzero levels and their places of all blocks in one
// array; makes of each an index into EntropyCodes; and packs the words found there, four by
// four. Everything is in an unnamed namespace, so that no version can stand in for another when the library is linked.
#ifndef EDGEJPEG_TOKEN_KERNEL_H_
#define EDGEJPEG_TOKEN_KERNEL_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend.h"
#include "entropy_kernel.h"

namespace edgejpeg {
namespace {

// The places of the bits of a byte, in order.
struct BitPlaces {
  alignas(8) uint8_t places[256][8] = {};
  uint8_t count[256] = {};

  constexpr BitPlaces() {
    for (unsigned bits = 0; bits < 256; ++bits) {
      for (uint8_t place = 0; place < 8; ++place) {
        if ((bits >> place & 1) != 0) places[bits][count[bits]++] = place;
      }
    }
  }
};

constexpr BitPlaces kBitPlaces;

constexpr uint8_t kSlotPlace = 0x40;  // of slot 1
constexpr unsigned kSlotBit = 13;     // in the index of a patch
static_assert(kCodeWords <= 1u << kSlotBit);

// How far the arrays of Tokens are filled. Passed by value: in registers, where the bytes that are written cannot be
// thought to change it.
struct Filled {
  size_t tokens = 0;
  size_t patches = 0;
};

// Those of the MCUs that are collected together, and of one more.
struct Tokens {
  static constexpr size_t kEnough = 1536;
  static constexpr size_t kMaxOfBlock = 3 + 63 * 3 + 3 + 1;  // code and two parts of a value each, long runs, the end
  static constexpr size_t kCapacity = kEnough + 6 * kMaxOfBlock + kBlockSize;

  // A token is a level behind some zeros, or what a patch says.
  uint8_t level[kCapacity];
  uint8_t place[1 + kCapacity];  // and kSlotPlace; one ahead of the others
  struct Patch {
    uint16_t at;
    uint16_t index;
  } patch[kCapacity];

  [[gnu::always_inline]] Filled put(unsigned slot, size_t index, Filled filled) {
    patch[filled.patches] = {static_cast<uint16_t>(filled.tokens), static_cast<uint16_t>(slot << kSlotBit | index)};
    return {filled.tokens + 1, filled.patches + 1};
  }
  Filled put_value(unsigned slot, size_t code, int value, uint32_t bits, Filled filled) {
    filled = put(slot, code, filled);
    const uint32_t ones = static_cast<uint32_t>(value + (value >> 31)) & ((1u << bits) - 1);
    if (bits > 8) filled = put(slot, bits_index(ones >> 8, bits - 8), filled);
    return bits > 0 ? put(slot, bits_index(ones & 0xFF, bits < 8 ? bits : 8), filled) : filled;
  }
};

[[gnu::noinline]] Filled collect_slowly(const Block& block, const int16_t* wide, int difference, unsigned slot,
                                        Tokens* tokens, Filled filled) {
  const uint32_t dc_size = category(difference);
  filled = tokens->put_value(slot, kDcCodeIndex + dc_size, difference, dc_size, filled);
  size_t previous = 0;
  for (uint64_t mask = block.mask; mask != 0; mask &= mask - 1) {
    const size_t k = lowest_bit(mask);
    size_t run = k - previous - 1;
    previous = k;
    for (; run >= 16; run -= 16) filled = tokens->put(slot, kAcCodeIndex + kSixteenZeros, filled);
    const int level = level_at(block, wide, k);
    const uint32_t size = category(level);
    filled = tokens->put_value(slot, kAcCodeIndex + (run << 4 | size), level, size, filled);
  }
  return block.mask >> 63 == 0 ? tokens->put(slot, kAcCodeIndex + kEndOfBlock, filled) : filled;
}

// Collects the nonzero levels of a block and their places, eight places at a time.
// `Move::move(levels, order, base, level, place)` moves the bytes `order` of eight levels to the front of `level`, and
// writes order + base to `place`.
template <typename Move>
struct ByEight {
  [[gnu::always_inline]] static inline size_t collect(const int8_t* levels, uint64_t mask, uint8_t base, uint8_t* level,
                                                      uint8_t* place) {
    size_t count = 0;
    const auto move = [&]() __attribute__((always_inline)) {
      const auto bits = static_cast<uint8_t>(mask);
      Move::move(levels, kBitPlaces.places[bits], base, level + count, place + count);
      count += kBitPlaces.count[bits];
      mask >>= 8;
      levels += 8;
      base = static_cast<uint8_t>(base + 8);
    };
    // Most blocks end here; to ask whether this one has ended before would cost more.
    move();
    move();
    while (mask != 0) {
      move();
      move();
    }
    return count;
  }
};

// `Compact::collect(levels, mask, base, level, place)` writes the levels that `mask` has to the front of `level`, and
// their places + base to `place`; up to 64 bytes of each. Returns how many they are.
template <typename Compact>
[[gnu::always_inline]] inline Filled collect(const Block& block, const int16_t* wide, int* previous_dc, unsigned slot,
                                             Tokens* tokens, Filled filled) {
  const int difference = block.dc - *previous_dc;
  *previous_dc = block.dc;
  const auto dc = static_cast<size_t>(difference + kSmallDc);
  const uint64_t mask = block.mask;
  if (__builtin_expect(block.wide != 0 || dc > 2 * kSmallDc || has_long_run(mask), 0)) {
    return collect_slowly(block, wide, difference, slot, tokens, filled);
  }
  const auto slot_place = slot == 0 ? uint8_t{0} : kSlotPlace;
  const uint64_t end = ~mask >> 63;
  tokens->place[1 + filled.tokens] = slot_place;
  filled = tokens->put(slot, kDcIndex + dc, filled);
  filled.tokens += Compact::collect(block.levels, mask, slot_place, tokens->level + filled.tokens,
                                    tokens->place + 1 + filled.tokens);
  tokens->level[filled.tokens] = kEndLevel;
  tokens->place[1 + filled.tokens] = slot_place;
  filled.tokens += end;
  return filled;
}

// The indices of all tokens into the words of slot 0; those of slot 1 begin at `slot_1`. Behind them there are some of
// a word without bits.
constexpr size_t kIndicesBehind = 5;

inline void make_indices(const Tokens& tokens, Filled filled, int32_t slot_1, int32_t* index) {
  for (size_t i = 0; i < filled.tokens; ++i) {
    const int distance = tokens.place[i + 1] - tokens.place[i];
    index[i] = ((tokens.place[i + 1] & kSlotPlace) != 0 ? slot_1 : 0) + ((distance & 0x0F) << 8 | tokens.level[i]);
  }
  for (size_t i = 0; i < filled.patches; ++i) {
    const Tokens::Patch patch = tokens.patch[i];
    index[patch.at] = (slot_1 & -(patch.index >> kSlotBit)) + (patch.index & ((1 << kSlotBit) - 1));
  }
  for (size_t i = 0; i < kIndicesBehind; ++i) index[filled.tokens + i] = 0;
}

// Calls use(indices, number of tokens) for some MCUs at a time, until the row is done.
template <typename Compact, typename Use>
[[gnu::always_inline]] inline void for_each_token(const McuRow& row, int* previous_dc, int32_t slot_1, Use use) {
  Tokens tokens;
  alignas(32) int32_t index[Tokens::kCapacity];
  Filled filled;
  walk_any_row(
      row,
      [&](size_t c, const Block& block, const int16_t* wide) __attribute__((always_inline)) {
        if (c == 0 && __builtin_expect(filled.tokens >= Tokens::kEnough, 0)) {
          make_indices(tokens, filled, slot_1, index);
          use(index, filled.tokens);
          filled = {};
        }
        filled = collect<Compact>(block, wide, previous_dc + c, c == 0 ? 0u : 1u, &tokens, filled);
      },
      [&](size_t c) __attribute__((always_inline)) {
        filled = tokens.put(c == 0 ? 0 : 1, kDcIndex + kSmallDc, filled);
        filled = tokens.put(c == 0 ? 0 : 1, kAcCodeIndex + kEndOfBlock, filled);
      });
  make_indices(tokens, filled, slot_1, index);
  use(index, filled.tokens);
}

// Two words, one behind the other: up to 48 bits, and in the low byte of `length` their number.
struct WordPair {
  uint64_t bits;
  uint32_t length;
};

inline WordPair join(uint32_t first, uint32_t second) {
  return {static_cast<uint64_t>(first >> 8) << (second & 63) | second >> 8, first + second};
}

[[gnu::noinline]] BitPacker pack(const int32_t* index, size_t size, const uint32_t* words, BitPacker packer) {
  const auto put = [&packer](uint64_t bits, uint32_t length) __attribute__((always_inline)) {
    packer.bits = packer.bits << (length & 63) | bits;
    packer.waiting += length & 0xFF;
    packer.flush();
  };
  for (size_t i = 0; i < size; i += 6) {
    const WordPair first = join(words[index[i]], words[index[i + 1]]);
    const WordPair second = join(words[index[i + 2]], words[index[i + 3]]);
    const WordPair third = join(words[index[i + 4]], words[index[i + 5]]);
    const uint32_t length = first.length + second.length + third.length;
    if (__builtin_expect((length & 0xFF) <= 56, 1)) {
      put((first.bits << (second.length & 63) | second.bits) << (third.length & 63) | third.bits, length);
    } else {
      put(first.bits, first.length);
      put(second.bits, second.length);
      put(third.bits, third.length);
    }
  }
  return packer;
}

size_t write_counted_tokens(const CountedRow& row, const EntropyCodes* const codes[2], uint8_t* out) {
  BitPacker packer;
  packer.out = out;
  return finish_row(pack(row.tokens, row.size, codes[0]->words, packer), out);
}

template <typename Compact>
size_t write_tokens(const McuRow& row, int* previous_dc, const EntropyCodes* const codes[2], uint8_t* out) {
  BitPacker packer;
  packer.out = out;
  const uint32_t* const words = codes[0]->words;
  // Parts of one object: the distance is one of whole words, and small.
  const auto slot_1 =
      row.components == 1
          ? 0
          : static_cast<int32_t>((reinterpret_cast<intptr_t>(codes[1]->words) - reinterpret_cast<intptr_t>(words)) /
                                 static_cast<intptr_t>(sizeof(*words)));
  for_each_token<Compact>(row, previous_dc, slot_1,
                          [&](const int32_t* index, size_t size) { packer = pack(index, size, words, packer); });
  return finish_row(packer, out);
}

// What a word stands for: an AC symbol, kDcSymbol + a DC symbol, or kNoSymbol; with kSlotSymbols for slot 1.
struct TokenSymbols {
  static constexpr uint16_t kDcSymbol = 256;
  static constexpr uint16_t kNoSymbol = 256 + 16;
  static constexpr uint16_t kSlotSymbols = 512;

  uint16_t symbol[2 * kCodeWords] = {};

  constexpr TokenSymbols() {
    for (size_t i = 0; i < 2 * kCodeWords; ++i) {
      symbol[i] = static_cast<uint16_t>(symbol_of(i % kCodeWords) + (i < kCodeWords ? 0 : kSlotSymbols));
    }
  }

 private:
  static constexpr size_t bits_of(int value) {
    size_t bits = 0;
    for (int magnitude = value < 0 ? -value : value; magnitude > 0; magnitude /= 2) ++bits;
    return bits;
  }
  static constexpr size_t symbol_of(size_t index) {
    if (index < kDcIndex) {
      const size_t level = index % 256;
      const size_t run = (index / 256 + 15) % 16;  // see ac_row
      if (level == 0) return kNoSymbol;
      if (level == kEndLevel) return kEndOfBlock;
      return run << 4 | bits_of(level < 128 ? static_cast<int>(level) : static_cast<int>(level) - 256);
    }
    if (index < kDcCodeIndex) return kDcSymbol + bits_of(static_cast<int>(index - kDcIndex) - kSmallDc);
    if (index < kAcCodeIndex) return kDcSymbol + index - kDcCodeIndex;
    return index < kBitsIndex ? index - kAcCodeIndex : kNoSymbol;
  }
};

constexpr TokenSymbols kTokenSymbols;

template <typename Compact>
void count_tokens(const McuRow& row, int* previous_dc, SymbolCounts* dc, SymbolCounts* ac, CountedRow* counted) {
  // Two sets in turn: the same symbol twice in a row need not wait for its own count.
  uint32_t counts[2][2 * TokenSymbols::kSlotSymbols] = {};
  size_t kept = 0;
  size_t all = 0;
  for_each_token<Compact>(row, previous_dc, kCodeWords, [&](const int32_t* index, size_t size) {
    all += size;
    if (counted != nullptr && all + kIndicesBehind <= counted->capacity) {
      std::memcpy(counted->tokens + kept, index, (size + kIndicesBehind) * sizeof(*index));
      kept = all;
    }
    for (size_t i = 0; i < size; i += 2) {
      ++counts[0][kTokenSymbols.symbol[index[i]]];
      ++counts[1][kTokenSymbols.symbol[index[i + 1]]];
    }
  });
  if (counted != nullptr) counted->size = kept == all ? all : 0;
  for (size_t slot = 0; slot < (row.components > 1 ? size_t{2} : size_t{1}); ++slot) {
    const uint32_t* const even = counts[0] + slot * TokenSymbols::kSlotSymbols;
    const uint32_t* const odd = counts[1] + slot * TokenSymbols::kSlotSymbols;
    for (size_t symbol = 0; symbol < 256; ++symbol) ac[slot].count[symbol] += even[symbol] + odd[symbol];
    for (size_t symbol = 0; symbol < 16; ++symbol) {
      dc[slot].count[symbol] += even[TokenSymbols::kDcSymbol + symbol] + odd[TokenSymbols::kDcSymbol + symbol];
    }
  }
}

}  // namespace
}  // namespace edgejpeg

#endif  // EDGEJPEG_TOKEN_KERNEL_H_
