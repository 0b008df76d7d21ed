// The inner loops, once per instruction set, behind one table of functions.
//
// Every back end does the same integer arithmetic, so that all give the same bytes. scalar.cpp is the plain version to
// read; each of the others has translation units with compile flags of their own, and is entered only after the
// processor was asked.
#ifndef EDGEJPEG_BACKEND_H_
#define EDGEJPEG_BACKEND_H_

#include <cstddef>
#include <cstdint>

#include "colour_kernels.h"
#include "geometry.h"
#include "huffman.h"
#include "quantise.h"
#include "statistics.h"

namespace edgejpeg {

// Coefficients are kept for two neighbouring blocks together, in transposed order: [horizontal frequency][block]
// [vertical frequency], scaled by kDctScale (dct.h).
constexpr size_t kPairSize = 2 * kBlockSize;

// Stored coefficients are fetched this many pairs before they are quantised: those of a large frame are in no near
// cache. Into the second one: the first can wait for too few lines at a time.
constexpr size_t kPairsAhead = 64;

// `pair`: the one to fetch.
inline void fetch_pair(const int16_t* pair) {
  for (size_t i = 0; i < kPairSize; i += 32) __builtin_prefetch(pair + i, 0, 2);
}

// The blocks of one row of MCUs.
struct McuRow {
  struct Plane {
    const Block* blocks[2];    // by line of blocks
    const int16_t* levels[2];  // the levels of wide blocks, 64 in zigzag order for every block
    size_t horizontal;
    size_t vertical;
    size_t columns;  // real blocks of a line; the others are dummies, coded as the DC before and no AC
    size_t lines;    // real lines
  };
  size_t components;
  size_t mcu_columns;
  Plane plane[3];
};

// What count() found in a row of MCUs, for write_counted(), which then need not look for it again.
struct CountedRow {
  int32_t* tokens;
  size_t capacity;
  size_t size;  // 0: they did not fit, or the back end has none
};

// Room for the tokens of nearly every row.
constexpr size_t kTokensOfBlock = 24;

// Bytes that the entropy coder may write behind the bits of a row.
constexpr size_t kBitSlack = 64;

struct Backend {
  const char* name;

  const ColourKernels* colour;

  // The DCT of `pairs` pairs of blocks from 8 rows of samples.
  void (*transform)(const int8_t* samples, size_t stride, size_t pairs, int16_t* coefficients);

  // Adds to `sums`. At most kMaxSummedPairs at a time.
  void (*accumulate)(const int16_t* coefficients, size_t pairs, Sums* sums);

  // 2 * pairs blocks. `levels` has 64 values for each of them; those of wide blocks are written. The coefficients that
  // many pairs `ahead` are fetched meanwhile.
  void (*quantise)(const int16_t* coefficients, size_t pairs, size_t ahead, const Quantiser& quantiser, Block* blocks,
                   int16_t* levels);

  // From samples by way of the float64 DCT: for tables so fine that the rounding of `transform` would show.
  // `dead_zone`: as in make_quantiser.
  void (*quantise_exactly)(const int8_t* samples, size_t stride, size_t columns, const uint8_t* table,
                           const double* dead_zone, Block* blocks, int16_t* levels);

  // Counts the symbols of a row of MCUs. `previous_dc`: one per component, updated. `counted` may be nullptr.
  void (*count)(const McuRow& row, int* previous_dc, SymbolCounts* dc, SymbolCounts* ac, CountedRow* counted);

  // Writes the codes of a row of MCUs from the first bit of `out` on, not stuffed, filled with zeros to a whole byte
  // and kBitSlack beyond. Returns the number of bits. `codes`, by slot, are parts of one object.
  size_t (*write)(const McuRow& row, int* previous_dc, const EntropyCodes* const codes[2], uint8_t* out);

  // The same for a row that was counted, size > 0; the slots of `codes` stand side by side in an array. nullptr in a
  // back end that leaves size at 0.
  size_t (*write_counted)(const CountedRow& row, const EntropyCodes* const codes[2], uint8_t* out);

  // Appends `bytes` bytes to the file, moved `shift` (0..7) bits down, the gap filled from in[-1], with a zero stuffed
  // behind every 0xFF. Returns the end. Reads and writes up to kBitSlack bytes behind the end.
  uint8_t* (*append)(const uint8_t* in, size_t bytes, unsigned shift, uint8_t* out);

  // The float64 DCT of one block, row-major, or nullptr. A back end that has it works in float64 throughout, in the
  // order of the Python reference, and gives its tables and bytes exactly; it is slow.
  void (*transform_exactly)(const int8_t* samples, size_t stride, double* coefficients);
};

constexpr size_t kMaxSummedPairs = 256;

extern const Backend kScalarBackend;
extern const Backend kReferenceBackend;
#if defined(__x86_64__)
extern const Backend kAvx2Backend;
extern const Backend kAvx512Backend;
#endif
#if defined(__aarch64__)
extern const Backend kNeonBackend;
#endif

// The best back end of this machine, or the one that `name` asks for; nullptr when the name is unknown or this machine
// cannot run it. `name` may be NULL or empty.
const Backend* choose_backend(const char* name);

}  // namespace edgejpeg

#endif  // EDGEJPEG_BACKEND_H_
