// The sums and the quantiser of a back end alone, for tests.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../backend.h"

#define EDGEJPEG_HOOK extern "C" __attribute__((visibility("default")))

// `samples`: 8 rows of 16 * pairs level-shifted samples. `dead_zone`: 64 thresholds or NULL. `levels`: 2 * pairs x 64
// in zigzag order. Returns 0 when this machine has no such back end, or when a block contradicts itself.
EDGEJPEG_HOOK int32_t hook_quantise(const char* name, const int8_t* samples, size_t pairs, const uint8_t* table,
                                    const double* dead_zone, int32_t exactly, int16_t* levels) {
  const edgejpeg::Backend* const backend = edgejpeg::choose_backend(name);
  if (backend == nullptr) return 0;
  const size_t count = 2 * pairs;
  std::vector<edgejpeg::Block> blocks(count);
  std::vector<int16_t> wide(count * edgejpeg::kBlockSize);
  if (exactly != 0) {
    backend->quantise_exactly(samples, 8 * count, count, table, dead_zone, blocks.data(), wide.data());
  } else {
    std::vector<int16_t> coefficients(pairs * edgejpeg::kPairSize);
    backend->transform(samples, 8 * count, pairs, coefficients.data());
    const edgejpeg::Quantiser quantiser = edgejpeg::make_quantiser(table, dead_zone);
    backend->quantise(coefficients.data(), pairs, 0, quantiser, blocks.data(), wide.data());
  }
  for (size_t i = 0; i < count; ++i) {
    const edgejpeg::Block& block = blocks[i];
    int16_t* const out = levels + i * edgejpeg::kBlockSize;
    out[0] = block.dc;
    uint64_t mask = 0;
    for (size_t k = 1; k < edgejpeg::kBlockSize; ++k) {
      out[k] = block.wide != 0 ? wide[i * edgejpeg::kBlockSize + k] : block.levels[k];
      mask |= static_cast<uint64_t>(out[k] != 0) << k;
    }
    if (mask != block.mask || block.levels[edgejpeg::kBlockSize] != 0) return 0;
  }
  return 1;
}

// `coefficients`: `pairs` pairs of blocks in the layout of backend.h. Adds to 3 x 64 `sums`: values, magnitudes,
// squares, in the transposed order. Returns 0 when this machine has no such back end.
EDGEJPEG_HOOK int32_t hook_accumulate(const char* name, const int16_t* coefficients, size_t pairs, int64_t* sums) {
  const edgejpeg::Backend* const backend = edgejpeg::choose_backend(name);
  if (backend == nullptr) return 0;
  edgejpeg::Sums all;
  static_assert(sizeof(all) == 3 * edgejpeg::kBlockSize * sizeof(*sums));
  std::memcpy(&all, sums, sizeof(all));
  backend->accumulate(coefficients, pairs, &all);
  std::memcpy(sums, &all, sizeof(all));
  return 1;
}
