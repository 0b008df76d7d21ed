// The time of the stages of a frame.
#ifndef EDGEJPEG_CLOCK_H_
#define EDGEJPEG_CLOCK_H_

#include <chrono>
#include <cstdint>

namespace edgejpeg {

enum Stage { kColour, kTransform, kDesign, kQuantise, kEntropy, kStages };

// Adds the time since it was made, or since the last lap, to a stage.
class StageClock {
 public:
  // `nanoseconds`: kStages of them, or nullptr: nothing is timed.
  explicit StageClock(uint64_t* nanoseconds) : nanoseconds_(nanoseconds) {
    if (nanoseconds_ != nullptr) last_ = std::chrono::steady_clock::now();
  }

  void lap(Stage stage) {
    if (nanoseconds_ == nullptr) return;
    const auto now = std::chrono::steady_clock::now();
    const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(now - last_).count();
    nanoseconds_[stage] += static_cast<uint64_t>(passed);
    last_ = now;
  }

 private:
  uint64_t* nanoseconds_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace edgejpeg

#endif  // EDGEJPEG_CLOCK_H_
