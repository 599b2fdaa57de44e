// probe VERB ARGUMENTS: small parts of the library, as tests in Python ask for them.
#include <functional>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "canonical.h"
#include "files.h"
#include "identity.h"
#include "machine.h"
#include "manifest.h"
#include "ptq_export/denoiser.h"
#include "ptq_export/error.h"
#include "ptq_export/files.h"
#include "ptq_export/sampling.h"
#include "ptq_export/schedule.h"
#include "ptq_export/text_to_image.h"
#include "sha256.h"
#include "text/tokenizer.h"

using namespace ptq_export;
using Words = std::vector<std::string>;

namespace {

void noise(Words const& words) {
  Shape shape;
  for (std::size_t index = 2; index < words.size(); ++index) shape.push_back(std::stoll(words[index]));
  write_npy(words.at(0), initial_noise(shape, std::stoull(words.at(1))));
}

void json(Words const& words) { std::cout << canonical(Json::read(words.at(0))) << '\n'; }

void identity(Words const& words) {
  auto const [found, file_sha256] = read_identity(words.at(0));
  std::cout << canonical(found) << '\n' << was_built_here(found, file_sha256) << '\n';
  Identity wanted = identity_here("ort", found.onnx_sha256);
  wanted.versions = {{"onnxruntime", "0"}};
  for (std::string const& sentence : differences(found, wanted)) std::cout << sentence << '\n';
}

void machine(Words const&) {
  std::cout << system_name() << ' ' << machine_name() << ' ' << physical_cores();
  for (std::string const& name : instruction_sets()) std::cout << ' ' << name;
  std::cout << '\n';
}

void target(Words const& words) {
  Target const found = find_target(words.at(0));
  std::cout << found.engine << ' ' << found.onnx << '\n';
}

// The prediction for NAME=FILE.npy..., three times with the same denoiser: run RUN OPERATORS OUT.npy FEEDS...
void run(Words const& words) {
  EngineOptions options;
  options.operators = words.at(1);
  options.threads = 1;
  options.log = [](std::string_view line) { std::cerr << line << '\n'; };
  auto const denoiser = open_run(words.at(0), options);
  std::map<std::string, Array> arrays;
  Feeds feeds;
  for (std::size_t index = 3; index < words.size(); ++index) {
    std::size_t const equals = words[index].find('=');
    Array const& array = arrays[words[index].substr(0, equals)] = read_npy(words[index].substr(equals + 1));
    feeds[words[index].substr(0, equals)] = array.view();
  }
  Tensor prediction;
  for (int repeat = 0; repeat < 3; ++repeat) denoiser->run(feeds, prediction);
  write_npy(words.at(2), prediction);
}

// Whether a prompt that is written into the same memory changes the prediction, the same one again does not, and the
// first one gives the first prediction.
void prompts(Words const& words) {
  auto const denoiser = open_run(words.at(0), {});
  Tensor const sample({1, 2, 4}, 1.0F);
  Tensor const shift({1, 2, 4});
  Tensor text({1, 3, 3}, 0.5F);
  std::vector<std::int64_t> const timestep{0};
  Feeds const feeds{{"sample", sample}, {"timestep", timestep}, {"text", text}, {"shift", shift}};
  auto const predicted = [&](float value) {
    text[4] = value;
    Tensor const prediction = denoiser->run(feeds);
    return std::vector<float>(prediction.data(), prediction.data() + prediction.size());
  };
  auto const first = predicted(0.5F);
  auto const second = predicted(2.0F);
  std::cout << (first != second) << ' ' << (second != predicted(2.0F)) << ' ' << (first == predicted(0.5F)) << '\n';
}

// Two prompts as a service draws them, guided: pictures RUN OUT.npy
void pictures(Words const& words) {
  auto const denoiser = open_run(words.at(0));
  PromptEncoder const encoder(words.at(0));
  LatentDecoder const decoder(words.at(0));
  auto const given = encoder.encode({"a red apple", "a green dog"});
  auto const away = encoder.encode({""});
  Feeds conditions(given.begin(), given.end());
  Input sizes;
  sizes.name = "sizes";
  auto const examples = examples_of_run(words.at(0), {sizes}, 2, 7);
  for (auto const& [name, array] : examples) conditions[name] = array.view();
  auto const model = guided(model_of(*denoiser), 7.5F, {away.begin(), away.end()});
  auto const sampler = make_sampler(NoiseSchedule::of_run(words.at(0)), "dpm-solver++", 4);
  Shape shape = denoiser->signature().sample_shape();
  shape.insert(shape.begin(), 2);
  write_npy(words.at(1), decoder.decode(sample_loop(model, *sampler, initial_noise(shape, 7), conditions)));
}

// Rows that are drawn of an array: examples RUN NAME COUNT SEED OUT.npy
void examples(Words const& words) {
  Input input;
  input.name = words.at(1);
  auto const found = examples_of_run(words.at(0), {input}, std::stoll(words.at(2)), std::stoull(words.at(3)));
  Array const& array = found.begin()->second;
  write_npy(words.at(4), Tensor(array.shape, std::get<std::vector<float>>(array.values)));
}

// Of every line of a file: the ids that a tokenizer makes of it, and whether it was cut.
void tokens(Words const& words) {
  text::Tokenizer const tokenizer(words.at(0));
  std::string const lines = read_bytes(words.at(1), std::size_t{1} << 24);
  for (std::size_t at = 0; at < lines.size();) {
    std::size_t const end = lines.find('\n', at);
    auto const encoded = tokenizer.encode(std::string_view(lines).substr(at, end - at));
    for (std::int64_t const id : encoded.ids) std::cout << id << ' ';
    std::cout << encoded.was_cut << '\n';
    at = end == std::string::npos ? lines.size() : end + 1;
  }
}

}  // namespace

int main(int count, char** words) {
  std::map<std::string, std::function<void(Words const&)>> const verbs{
      {"examples", examples},
      {"identity", identity},
      {"json", json},
      {"machine", machine},
      {"noise", noise},
      {"pictures", pictures},
      {"prompts", prompts},
      {"run", run},
      {"target", target},
      {"tokens", tokens},
      {"sha256", [](Words const& rest) { std::cout << sha256_file(rest.at(0)) << '\n'; }},
      {"inside", [](Words const& rest) { std::cout << inside(rest.at(0), rest.at(1)).string() << '\n'; }},
  };
  try {
    verbs.at(words[1])({words + 2, words + count});
    return 0;
  } catch (Error const& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  }
}
