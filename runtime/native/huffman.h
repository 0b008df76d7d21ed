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
  // For tables from a sample: every symbol of up to `size` value bits gets a count, small against what was seen.
  void cover(const HuffmanTable& all_symbols, unsigned size);
};

// Annex K.3: tables K.3 to K.6.
extern const HuffmanTable kStandardDc[2];
extern const HuffmanTable kStandardAc[2];

// Annex K.2: optimal for the counts, codes at most 16 bits, all ones reserved. Ties as in libjpeg.
HuffmanTable optimal_table(const SymbolCounts& counts);

// The table without the symbols at its end of more than `size` value bits. The codes of the others stay as they are.
HuffmanTable without_larger(const HuffmanTable& table, unsigned size);

// What the entropy coder looks up stands in one array of words. Their indices:
constexpr size_t kDcIndex = 16 << 8;                // + difference + kSmallDc, where it is -kSmallDc..kSmallDc
constexpr int kSmallDc = 255;                       // with a code of 16 bits no more fits a word
constexpr size_t kDcCodeIndex = kDcIndex + 512;     // + symbol: the code alone
constexpr size_t kAcCodeIndex = kDcCodeIndex + 16;  // + symbol
constexpr size_t kBitsIndex = kAcCodeIndex + 256;   // 1..8 bits of a value
constexpr size_t kCodeWords = kBitsIndex + 512;
constexpr size_t bits_index(uint32_t value, uint32_t bits) { return kBitsIndex + (size_t{1} << bits) + value; }

constexpr uint8_t kEndLevel = 0x80;  // stands for the end of block, whatever the distance

// A word is bits << 8 | number of bits: a code with the value bits behind it. Those of AC levels come first, at
// ac_row(run + 1) | level, as uint8_t; a level of 0 has no bits.
struct EntropyCodes {
  uint32_t words[kCodeWords];
};

// `distance`: from one level to the next, 1..16. A larger one is legal where the level is 0.
constexpr size_t ac_row(size_t distance) { return distance << 8 & 0xF00; }

constexpr uint8_t kEndOfBlock = 0x00;
constexpr uint8_t kSixteenZeros = 0xF0;

// The words of DC, and those of AC and of the bits of values.
void make_dc_codes(const HuffmanTable& dc, EntropyCodes* codes);
void make_ac_codes(const HuffmanTable& ac, EntropyCodes* codes);

// bits << 8 | length for every symbol of a table; 0 for the others up to `size`.
void make_code_words(const HuffmanTable& table, size_t size, uint32_t* words);

// An upper bound of the bytes of one block before stuffing: DC 16 + 11 bits, 63 AC of 16 + 10 bits.
constexpr size_t kMaxBlockBytes = (16 + 11 + 63 * (16 + 10) + 7) / 8;

}  // namespace edgejpeg

#endif  // EDGEJPEG_HUFFMAN_H_
