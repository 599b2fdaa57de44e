// time_steps RUN BATCH THREADS
//
// Reads numbers from standard input; for each, computes as many steps and prints the milliseconds of every one on a
// line. `benchmarks/serving/cpp_step.py` calls it in turns with Python's engine.
#include <chrono>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "ptq_export/denoiser.h"
#include "ptq_export/error.h"
#include "ptq_export/sampling.h"

namespace {

void time_steps(std::vector<std::string> const& words) {
  ptq_export::EngineOptions options;
  options.threads = std::stoi(words.at(2));
  options.log = [](std::string_view line) { std::cerr << line << '\n'; };
  auto const denoiser = ptq_export::open_run(words.at(0), options);
  ptq_export::Shape shape = denoiser->signature().sample_shape();
  shape.insert(shape.begin(), std::stoll(words.at(1)));
  ptq_export::Tensor const sample = ptq_export::initial_noise(shape, 0);
  std::vector<std::int64_t> const timestep{500};
  ptq_export::Feeds const feeds{{"sample", sample}, {"timestep", timestep}};
  ptq_export::Tensor prediction;
  std::cout << "ready" << std::endl;
  for (int steps = 0; std::cin >> steps;) {
    for (int step = 0; step < steps; ++step) {
      auto const started = std::chrono::steady_clock::now();
      denoiser->run(feeds, prediction);
      std::chrono::duration<double, std::milli> const spent = std::chrono::steady_clock::now() - started;
      std::cout << spent.count() << ' ';
    }
    std::cout << std::endl;
  }
}

}  // namespace

int main(int count, char** words) {
  try {
    time_steps({words + 1, words + count});
    return 0;
  } catch (ptq_export::Error const& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  } catch (std::exception const&) {
    std::cerr << "time_steps RUN BATCH THREADS\n";
    return 2;
  }
}
