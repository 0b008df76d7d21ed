// Rate control: the water level, or the scale of fixed tables, for a number of bytes.
//
// A model of bytes over the control from a frame's statistics alone, and a search that needs about two encodes and
// never ends above the budget. The oracle is edgejpeg/design/control.py, which says why.
#ifndef EDGEJPEG_CONTROL_H_
#define EDGEJPEG_CONTROL_H_

#include <cstddef>
#include <cstdint>

#include "design.h"
#include "edgejpeg.h"

namespace edgejpeg {

// Entropy in bits of a Laplacian source of mean magnitude `lambda`: zero below threshold * q, rounded to multiples of q
// otherwise.
double laplace_entropy(double lambda, double q, double threshold);

// Every step times `factor`, within 1..255, rounded down or up at a fraction of its own: as the factor changes, the
// steps of the luma table (slot 0) and of the chroma table change one after the other.
void scale_table(const uint8_t* table, double factor, size_t slot, uint8_t* scaled);

// Modelled bytes of a frame. The control is the raw luma water level of a design (the chroma level keeps its ratio to
// it), or the scale of fixed tables.
class RateModel {
 public:
  // Row-major thresholds for luma and chroma in `dead_zone`; NULL in it: plain rounding.
  RateModel(const Design& design, const edgejpeg_statistics& statistics, const double* const dead_zone[2], int effort);
  RateModel(const uint8_t* const tables[2], const edgejpeg_statistics& statistics, const double* const dead_zone[2],
            int effort);

  double bytes(double control) const;
  // The control at which `size` bytes are expected, within .1 %; an end of the range where the size is beyond it.
  double invert(double size, double start) const;

  double header_bytes() const { return header_bytes_; }
  // For segments that not every file has.
  void add_header_bytes(double bytes) { header_bytes_ += bytes; }
  double lowest() const { return lowest_; }
  double highest() const { return highest_; }

 private:
  void start(const double* const dead_zone[2]);

  bool designed_;
  int effort_;
  edgejpeg_statistics statistics_;
  Design design_ = {};
  uint8_t tables_[2][64] = {};
  const double* dead_zone_[2];
  double scale_[3][64];
  double header_bytes_ = 0;
  double lowest_ = 0;
  double highest_ = 0;
};

// Encode at control(), report the size, until report() says that the search is over. Before each encode an estimate of
// the size, better than the model's, may correct the control: refine() until it says that it is near enough.
class BudgetSearch {
 public:
  // `max_encodes` >= 1: more follow only while none has met the budget.
  BudgetSearch(const RateModel& model, size_t budget, double start, int max_encodes);

  double control() const { return control_; }
  // True: the control was moved, and the next estimate may move it again.
  [[nodiscard]] bool refine(double expected);
  // False at the end.
  [[nodiscard]] bool report(size_t size);

  // At the end: whether the budget was met, and where. If not, `best_size` is the smallest possible file.
  bool met() const { return met_; }
  double best_control() const { return best_control_; }
  size_t best_size() const { return best_size_; }
  int encodes() const { return encodes_; }

 private:
  // Where the model meets the aim, if it errs by the same factor there as it does at the control.
  double corrected(double size) const;

  const RateModel& model_;
  double budget_;
  double aim_;
  int max_encodes_;
  double control_;
  double too_large_;
  bool met_ = false;
  double best_control_ = 0;
  size_t best_size_ = 0;
  int encodes_ = 0;
  int refinements_ = 0;  // since the last encode
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_CONTROL_H_
