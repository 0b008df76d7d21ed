// A driver for compilers without libFuzzer, with the options of libFuzzer that matter here:
//
//     encode_fuzzer [-runs=N] [-max_total_time=SECONDS] [-seed=N] [-max_len=N] [-artifact_prefix=PATH] [FILE|FOLDER]...
//
// Files alone are run once. With -runs or -max_total_time they are the seeds of mutated and random inputs, the same for
// the same seed. An input that ends the program is kept as PATHcrash-N.
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <sanitizer/common_interface_defs.h>
#define EDGEJPEG_FUZZ_SANITIZED 1
#endif

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Undefined behaviour ends in SIGABRT too: its sanitizer is a library of its own and knows no death callback of ours.
extern "C" const char* __ubsan_default_options();
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using Input = std::vector<uint8_t>;
using Random = std::mt19937_64;

constexpr unsigned kSecondsPerInput = 60;

struct Options {
  long long runs = -1;
  long long seconds = -1;
  uint64_t seed = 1;
  size_t max_length = 2048;
  std::string artifact_prefix;
  std::vector<std::string> paths;
};

std::string artifact_prefix;
const Input* current = nullptr;
long long executed = 0;

void keep_current_input() {
  if (current == nullptr) return;
  const Input* const input = current;
  current = nullptr;
  const std::string path = artifact_prefix + "crash-" + std::to_string(executed);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(input->data()), static_cast<std::streamsize>(input->size()));
  std::fprintf(stderr, "input %lld of %zu bytes kept as %s\n", executed, input->size(), path.c_str());
}

void on_signal(int signal) {
  keep_current_input();
  if (signal == SIGALRM) std::fprintf(stderr, "one input took more than %u seconds\n", kSecondsPerInput);
  _exit(1);
}

void run_one(const Input& input) {
  current = &input;
  alarm(kSecondsPerInput);
  // A copy of just its size, so that reading behind it is seen.
  Input copy(input);
  copy.shrink_to_fit();
  LLVMFuzzerTestOneInput(copy.data(), copy.size());
  alarm(0);
  current = nullptr;
  ++executed;
}

size_t below(Random* random, size_t bound) { return static_cast<size_t>((*random)() % bound); }

Input random_input(Random* random, size_t max_length) {
  Input input(1 + below(random, std::min<size_t>(max_length, 512)));
  for (uint8_t& byte : input) byte = static_cast<uint8_t>((*random)());
  return input;
}

Input mutated(const std::vector<Input>& seeds, Random* random, size_t max_length) {
  if (seeds.empty() || below(random, 4) == 0) return random_input(random, max_length);
  Input input = seeds[below(random, seeds.size())];
  for (size_t changes = 1 + below(random, 8); changes > 0; --changes) {
    if (input.empty()) input.push_back(0);
    const size_t at = below(random, input.size());
    const size_t length = std::min(1 + below(random, 32), input.size() - at);
    const auto position = [&](size_t index) { return input.begin() + static_cast<ptrdiff_t>(index); };
    constexpr uint8_t kEdges[] = {0, 1, 127, 128, 254, 255};
    switch (below(random, 7)) {
      case 0:
        input[at] = static_cast<uint8_t>(input[at] ^ 1u << below(random, 8));
        break;
      case 1:
        input[at] = static_cast<uint8_t>((*random)());
        break;
      case 2:
        input[at] = kEdges[below(random, std::size(kEdges))];
        break;
      case 3:
        input.erase(position(at), position(at + length));
        break;
      case 4: {  // a part of it again, elsewhere
        const Input part(position(at), position(at + length));
        input.insert(position(below(random, input.size() + 1)), part.begin(), part.end());
        break;
      }
      case 5: {  // the rest of another seed
        const Input& other = seeds[below(random, seeds.size())];
        const size_t from = below(random, other.size() + 1);
        input.resize(at);
        input.insert(input.end(), other.begin() + static_cast<ptrdiff_t>(from), other.end());
        break;
      }
      default:
        for (size_t i = 0; i < length; ++i) input[at + i] = static_cast<uint8_t>((*random)());
    }
  }
  if (input.size() > max_length) input.resize(max_length);
  return input;
}

Input read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  return Input(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
}

std::vector<Input> read_inputs(const std::vector<std::string>& paths) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Input> inputs;
  for (const auto& path : files) inputs.push_back(read_file(path));
  return inputs;
}

bool read_option(const char* argument, const char* name, long long* value) {
  const size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0) return false;
  char* end = nullptr;
  *value = std::strtoll(argument + length, &end, 10);
  if (*end != '\0' || end == argument + length || *value < 0) {
    std::fprintf(stderr, "%s: a number from 0 on belongs behind =\n", argument);
    std::exit(2);
  }
  return true;
}

Options read_options(int count, char** arguments) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const char* const argument = arguments[i];
    long long value = 0;
    constexpr char kPrefix[] = "-artifact_prefix=";
    if (read_option(argument, "-runs=", &options.runs) || read_option(argument, "-max_total_time=", &options.seconds)) {
      continue;
    }
    if (read_option(argument, "-seed=", &value)) {
      options.seed = static_cast<uint64_t>(value);
    } else if (read_option(argument, "-max_len=", &value)) {
      options.max_length = static_cast<size_t>(std::max(value, 1LL));
    } else if (std::strncmp(argument, kPrefix, sizeof(kPrefix) - 1) == 0) {
      options.artifact_prefix = argument + sizeof(kPrefix) - 1;
    } else if (argument[0] == '-') {
      std::fprintf(stderr,
                   "%s is no option; there are -runs=, -max_total_time=, -seed=, -max_len=, -artifact_prefix=\n",
                   argument);
      std::exit(2);
    } else {
      options.paths.emplace_back(argument);
    }
  }
  return options;
}

}  // namespace

int main(int count, char** arguments) {
  const Options options = read_options(count, arguments);
  artifact_prefix = options.artifact_prefix;
  std::signal(SIGABRT, on_signal);
  std::signal(SIGALRM, on_signal);
#ifdef EDGEJPEG_FUZZ_SANITIZED
  __sanitizer_set_death_callback(keep_current_input);
#endif
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const std::vector<Input> seeds = read_inputs(options.paths);
  for (const Input& input : seeds) run_one(input);
  const bool endless = options.runs < 0 && options.seconds < 0;
  Random random(options.seed);
  while (!endless && (options.runs < 0 || executed < options.runs) &&
         (options.seconds < 0 || Clock::now() - start < std::chrono::seconds(options.seconds))) {
    run_one(mutated(seeds, &random, options.max_length));
  }
  std::printf("Done %lld runs in %.1f second(s)\n", executed,
              std::chrono::duration<double>(Clock::now() - start).count());
  return 0;
}
