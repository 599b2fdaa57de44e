#include "arguments.h"

#include <cmath>
#include <functional>
#include <iostream>
#include <sstream>

#include "ptq_export/error.h"

namespace {

using ptq_export::InputError;

constexpr std::int64_t kMost = 1'000'000'000;
constexpr char const* kHelp = R"(sample_images RUN [flags]

Draws samples with the engine of a run folder and writes them as one picture.

  -o, --output FILE       picture to write (samples.png)
  --count N               how many samples (16)
  --steps N               denoising steps (20)
  --sampler NAME          ddim, dpm-solver++, euler, or flow-euler (the run's own)
  --seed N                of the initial noise (0): that of `ptq-export sample --seed N`
  --noise FILE            the initial noise, float32 [N, C, ...] in an .npy file; --count is its N
  --class N               class of all samples, short for --condition label=N
  --condition NAME=VALUE  an integer for all samples, or an .npy file with a row per sample; once per condition
  --prompt TEXT           what the samples show, of a run that takes prompts (the run's own)
  --negative TEXT         what they are moved away from (nothing)
  --guidance SCALE        classifier-free guidance, away from --negative or --unconditional (the run's own; 1: none)
  --unconditional NAME=VALUE  what a condition is where it is taken away: an integer, or an .npy file of one row
  --samples FILE          write the samples too, behind the decoder where there is one, as .npy
  --which TARGET          a baseline of the run, e.g. ort-fp32
  --threads N             of an engine on the CPU (all physical cores)
  --operators FILE        this package's compiled operators for ONNX Runtime
  --trusted               use engine files in the folder that this account did not build on this machine
  -v                      say which file is opened, and why
)";

std::int64_t whole(std::string const& flag, std::string const& text, std::int64_t least) {
  std::istringstream stream(text);
  std::int64_t value = 0;
  if (!(stream >> value) || !stream.eof() || value < least || value > kMost)
    throw InputError(flag + " is '" + text.substr(0, 40) + "', not an integer of " + std::to_string(least) + ".." +
                     std::to_string(kMost));
  return value;
}

double number(std::string const& flag, std::string const& text) {
  std::istringstream stream(text);
  double value = 0;
  if (!(stream >> value) || !stream.eof() || !std::isfinite(value))
    throw InputError(flag + " is '" + text.substr(0, 40) + "', not a number");
  return value;
}

void add(std::map<std::string, std::string>& named, std::string const& flag, std::string const& text) {
  std::size_t const equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw InputError(flag + " is '" + text.substr(0, 40) + "', not NAME=VALUE");
  if (!named.emplace(text.substr(0, equals), text.substr(equals + 1)).second)
    throw InputError(flag + " " + text.substr(0, equals) + " is given twice");
}

}  // namespace

std::optional<Arguments> parse(int count, char const* const* words) {
  Arguments found;
  using Take = std::function<void(std::string const&, std::string const&)>;
  std::map<std::string, Take> const takes{
      {"--output", [&](auto const&, auto const& text) { found.picture = text; }},
      {"-o", [&](auto const&, auto const& text) { found.picture = text; }},
      {"--count", [&](auto const& flag, auto const& text) { found.count = whole(flag, text, 1); }},
      {"--steps", [&](auto const& flag, auto const& text) { found.steps = whole(flag, text, 1); }},
      {"--sampler", [&](auto const&, auto const& text) { found.sampler = text; }},
      {"--seed", [&](auto const& flag, auto const& text) { found.seed = whole(flag, text, 0); }},
      {"--noise", [&](auto const&, auto const& text) { found.noise = text; }},
      {"--class",
       [&](auto const& flag, auto const& text) {
         add(found.conditions, flag, "label=" + std::to_string(whole(flag, text, 0)));
       }},
      {"--condition", [&](auto const& flag, auto const& text) { add(found.conditions, flag, text); }},
      {"--unconditional", [&](auto const& flag, auto const& text) { add(found.unconditional, flag, text); }},
      {"--prompt", [&](auto const&, auto const& text) { found.prompt = text; }},
      {"--negative", [&](auto const&, auto const& text) { found.negative = text; }},
      {"--guidance", [&](auto const& flag, auto const& text) { found.guidance = number(flag, text); }},
      {"--samples", [&](auto const&, auto const& text) { found.samples = text; }},
      {"--which", [&](auto const&, auto const& text) { found.engine.which = text; }},
      {"--threads",
       [&](auto const& flag, auto const& text) { found.engine.threads = static_cast<int>(whole(flag, text, 1)); }},
      {"--operators", [&](auto const&, auto const& text) { found.engine.operators = text; }},
  };
  for (int index = 1; index < count; ++index) {
    std::string const word = words[index];
    if (word == "-h" || word == "--help") {
      std::cout << kHelp;
      return std::nullopt;
    }
    auto const take = takes.find(word);
    if (word == "--trusted") {
      found.engine.trusted = true;
    } else if (word == "-v") {
      found.engine.log = [](std::string_view line) { std::cerr << line << '\n'; };
    } else if (take != takes.end()) {
      if (index + 1 == count) throw InputError(word + " wants a value", "see --help");
      take->second(word, words[++index]);
    } else if (word.rfind('-', 0) == 0 || !found.run.empty()) {
      throw InputError("'" + word.substr(0, 40) + "' is no flag of this program", "see --help");
    } else {
      found.run = word;
    }
  }
  if (found.run.empty()) throw InputError("a run folder is missing", "see --help");
  if (found.engine.threads > 1024) throw InputError("--threads is more than any machine has", "give fewer");
  return found;
}
