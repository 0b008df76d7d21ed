// The stages that tests and benchmarks compare with their oracles one by one, behind a C interface for ctypes.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "../control.h"
#include "../trellis.h"

#define EDGEJPEG_HOOK extern "C" __attribute__((visibility("default")))

namespace {

struct FrameModel {
  const edgejpeg_statistics* statistics;
  const double* sensitivity;  // 3 x 64; NULL: `tables` are scaled
  double luma_water_level;
  double chroma_water_level;
  int32_t q_max;
  int32_t effort;
  const uint8_t* tables[2];
  const double* dead_zone[2];
};

edgejpeg::RateModel make_model(const FrameModel& frame) {
  if (frame.sensitivity == nullptr) {
    return edgejpeg::RateModel(frame.tables, *frame.statistics, frame.dead_zone, frame.effort);
  }
  edgejpeg::Design design = {};
  for (size_t i = 0; i < 3 * 64; ++i) design.sensitivity[i / 64][i % 64] = frame.sensitivity[i];
  design.luma_water_level = frame.luma_water_level;
  design.chroma_water_level = frame.chroma_water_level;
  design.q_max = frame.q_max;
  return edgejpeg::RateModel(design, *frame.statistics, frame.dead_zone, frame.effort);
}

template <typename Level>
uint64_t nonzero_mask(const Level* levels) {
  constexpr size_t kTogether = 8 / sizeof(Level);
  uint64_t mask = 0;
  for (size_t k = 0; k < 64; k += kTogether) {
    uint64_t word;
    std::memcpy(&word, levels + k, sizeof(word));
    if (word == 0) continue;
    for (size_t i = k; i < k + kTogether; ++i) mask |= static_cast<uint64_t>(levels[i] != 0) << i;
  }
  return mask & ~uint64_t{1};
}

template <typename Coefficient, typename Level>
void quantise(const Coefficient* coefficients, const edgejpeg::Trellis& trellis, bool trim_only, Level* levels) {
  const uint64_t mask = nonzero_mask(levels);
  const uint64_t kept = trim_only ? edgejpeg::trim_block(coefficients, trellis, mask, levels)
                                  : edgejpeg::trellis_block(coefficients, trellis, mask, levels);
  if (kept != nonzero_mask(levels)) std::abort();
}

// Every other block takes the way of int8_t levels if it can.
template <typename Coefficient>
void quantise_blocks(const Coefficient* coefficients, size_t blocks, const edgejpeg::Trellis& trellis, bool trim_only,
                     int16_t* levels) {
  for (size_t i = 0; i < blocks; ++i, coefficients += 64, levels += 64) {
    if (i % 2 == 1 && std::all_of(levels, levels + 64, [](int16_t k) { return std::abs(k) <= 127; })) {
      int8_t narrow[64];
      for (int k = 0; k < 64; ++k) narrow[k] = static_cast<int8_t>(levels[k]);
      quantise(coefficients, trellis, trim_only, narrow);
      std::copy(narrow, narrow + 64, levels);
    } else {
      quantise(coefficients, trellis, trim_only, levels);
    }
  }
}

}  // namespace

// `coefficients`: blocks x 64, row-major, float or int16_t; steps and weights row-major; levels in zigzag order.
EDGEJPEG_HOOK void hook_trellis(const void* coefficients, int32_t is_float, size_t blocks, const double* steps,
                                const double* weights, const uint8_t* zigzag, const uint8_t* lengths, double lambda,
                                int32_t trim_only, int16_t* levels) {
  edgejpeg::Trellis trellis;
  for (size_t k = 0; k < 64; ++k) {
    trellis.coefficient[k] = zigzag[k];
    trellis.step[k] = steps[zigzag[k]];
    trellis.weight[k] = weights[zigzag[k]];
  }
  edgejpeg::set_trellis_rates(lengths, lambda, &trellis);
  if (is_float != 0) {
    quantise_blocks(static_cast<const float*>(coefficients), blocks, trellis, trim_only != 0, levels);
  } else {
    quantise_blocks(static_cast<const int16_t*>(coefficients), blocks, trellis, trim_only != 0, levels);
  }
}

EDGEJPEG_HOOK double hook_laplace_entropy(double lambda, double q, double threshold) {
  return edgejpeg::laplace_entropy(lambda, q, threshold);
}

EDGEJPEG_HOOK double hook_model_bytes(const FrameModel* frame, double control) {
  return make_model(*frame).bytes(control);
}

EDGEJPEG_HOOK double hook_model_invert(const FrameModel* frame, double size, double start) {
  return make_model(*frame).invert(size, start);
}

// `estimate` may be NULL. found: control, size, encodes. Returns whether the budget was met.
EDGEJPEG_HOOK int32_t hook_search(const FrameModel* frame, size_t budget, double start, int32_t max_encodes,
                                  size_t (*encode)(double control), double (*estimate)(double control), double* found) {
  const edgejpeg::RateModel model = make_model(*frame);
  edgejpeg::BudgetSearch search(model, budget, start, max_encodes);
  do {
    while (estimate != nullptr && search.refine(estimate(search.control()))) {
    }
  } while (search.report(encode(search.control())));
  found[0] = search.best_control();
  found[1] = static_cast<double>(search.best_size());
  found[2] = search.encodes();
  return search.met() ? 1 : 0;
}
