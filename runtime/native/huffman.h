// Huffman tables [ITU-T T.81, annex C, annex K.2, K.3], and what the entropy coder makes of them.
#ifndef EDGEJPEG_HUFFMAN_H_
#define EDGEJPEG_HUFFMAN_H_

#include <cstddef>
#include <cstdint>

namespace edgejpeg {

// A table as a DHT segment stores it.
struct HuffmanTable {
  uint8_t counts[16];    // how many codes have length 1..16
  uint8_t symbols[256];  // in order of increasing code length
  size_t size;           // number of symbols
};

struct SymbolCounts {
  uint64_t count[256];

  void add(const SymbolCounts& other);
  // For tables from a sample: every symbol of a baseline file gets a count, small against what was seen.
  void cover(const HuffmanTable& all_symbols);
};

// Annex K.3: tables K.3 to K.6.
extern const HuffmanTable kStandardDc[2];
extern const HuffmanTable kStandardAc[2];

// Annex K.2: optimal for the counts, codes at most 16 bits, all ones reserved. Ties as in libjpeg.
HuffmanTable optimal_table(const SymbolCounts& counts);

// What the entropy coder looks up: a code with the value bits behind it, as bits << 8 | number of bits.
struct EntropyCodes {
  uint32_t ac[16 << 8];   // index: ac_row(run + 1) | level, as uint8_t; 0 for level 0
  uint32_t ac_code[256];  // the code alone
  uint32_t dc_code[16];
};

// `distance`: from one level to the next, 1..16. A larger one is legal where the level is 0.
constexpr size_t ac_row(size_t distance) { return distance << 8 & 0xF00; }

constexpr uint8_t kEndOfBlock = 0x00;
constexpr uint8_t kSixteenZeros = 0xF0;

void make_dc_codes(const HuffmanTable& dc, EntropyCodes* codes);
void make_ac_codes(const HuffmanTable& ac, EntropyCodes* codes);

// bits << 8 | length for every symbol of a table; 0 for the others up to `size`.
void make_code_words(const HuffmanTable& table, size_t size, uint32_t* words);

// An upper bound of the bytes of one block before stuffing: DC 16 + 11 bits, 63 AC of 16 + 10 bits.
constexpr size_t kMaxBlockBytes = (16 + 11 + 63 * (16 + 10) + 7) / 8;

}  // namespace edgejpeg

#endif  // EDGEJPEG_HUFFMAN_H_
