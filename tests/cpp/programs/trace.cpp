// trace SCHEDULE.json SAMPLER STEPS NOISE.npy OUT.npy
//
// A loop around a made-up network, sample by sample `[S, N, C, ...]`: every number is computed by operations that
// float32 rounds once, so that numpy computes the same. Prints the time-steps.
#include <iostream>
#include <string>
#include <vector>

#include "ptq_export/error.h"
#include "ptq_export/files.h"
#include "ptq_export/sampling.h"
#include "ptq_export/schedule.h"

using namespace ptq_export;

namespace {

// 0.75 x - 0.25 x |x| / (1 + |x|) + t / 4096, and as many channels again where a variance is learned.
void network(Feeds const& feeds, Tensor& prediction, bool twice) {
  TensorView const& sample = feeds.at("sample");
  TensorView const& timestep = feeds.at("timestep");
  float const time =
      timestep.dtype() == DType::int64 ? static_cast<float>(timestep.integers()[0]) : timestep.floats()[0];
  Shape shape = sample.shape();
  std::size_t const numbers = count(shape);
  std::size_t const each = numbers / static_cast<std::size_t>(shape[0]);
  if (twice) shape[1] *= 2;
  prediction.resize(shape);
  for (std::size_t i = 0; i < prediction.size(); ++i) {
    std::size_t const row = twice ? i / (2 * each) : i / each;
    std::size_t const within = twice ? i % (2 * each) : i % each;
    float const x = sample.floats()[row * each + within % each];
    float const size = x < 0 ? -x : x;
    prediction[i] = 0.75F * x - 0.25F * x * (size / (1.0F + size)) + time / 4096.0F;
  }
}

void trace(std::vector<std::string> const& words) {
  Json const json = Json::read(words.at(0));
  NoiseSchedule const schedule = NoiseSchedule::from_json(json, words[0]);
  auto const sampler = make_sampler(schedule, words.at(1), std::stoll(words.at(2)));
  for (std::string const& note : sampler_notes(schedule, words[1], std::stoll(words[2]))) std::cerr << note << '\n';
  Array const noise = read_npy(words.at(3));
  std::vector<float> steps;
  bool const twice = schedule.variance_type.rfind("learned", 0) == 0;
  auto const model = [&](Feeds const& feeds, Tensor& prediction) { network(feeds, prediction, twice); };
  Tensor const start(noise.shape, std::get<std::vector<float>>(noise.values));
  std::int64_t total = 0;
  std::cout.precision(17);
  sample_loop(model, *sampler, start, {}, !schedule.is_flow(), [&](Step const& step) {
    steps.insert(steps.end(), step.sample.data(), step.sample.data() + step.sample.size());
    std::cout << step.timestep << '\n';
    ++total;
  });
  Shape shape = noise.shape;
  shape.insert(shape.begin(), total);
  write_npy(words.at(4), Tensor(shape, steps));
}

}  // namespace

int main(int count, char** words) {
  try {
    trace({words + 1, words + count});
    return 0;
  } catch (Error const& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  }
}
