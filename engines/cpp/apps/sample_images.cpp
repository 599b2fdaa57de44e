// Draws samples with the engine of a run folder and writes them as one PNG picture: `ptq-export sample` without Python.
#include <algorithm>
#include <csignal>
#include <exception>
#include <iostream>
#include <iterator>
#include <list>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "arguments.h"
#include "prompting.h"
#include "ptq_export/error.h"
#include "ptq_export/files.h"
#include "ptq_export/sampling.h"
#include "ptq_export/schedule.h"
#include "ptq_export/text_to_image.h"

namespace {

using ptq_export::Array;
using ptq_export::Denoiser;
using ptq_export::Feeds;
using ptq_export::Input;
using ptq_export::InputError;
using ptq_export::Shape;
using ptq_export::Tensor;

constexpr int kFault = 70;

// Arrays that feeds refer to.
using Kept = std::list<Array>;

bool is_integer(std::string const& text) {
  return !text.empty() && text.size() < 19 && text.find_first_not_of("0123456789") == std::string::npos;
}

Feeds feeds_of(std::map<std::string, std::string> const& given, std::int64_t rows, Kept& kept) {
  Feeds feeds;
  for (auto const& [name, text] : given) {
    auto const many = static_cast<std::size_t>(rows);
    kept.push_back(is_integer(text) ? Array{{rows}, std::vector<std::int64_t>(many, std::stoll(text))}
                                    : ptq_export::read_npy(text));
    feeds[name] = kept.back().view();
  }
  return feeds;
}

void require_class(Denoiser const& denoiser, Arguments const& asked) {
  auto const given = asked.conditions.find("label");
  if (given == asked.conditions.end() || !is_integer(given->second)) return;
  auto const& inputs = denoiser.signature().inputs;
  auto const label =
      std::find_if(inputs.begin(), inputs.end(), [](Input const& input) { return input.name == "label"; });
  if (label == inputs.end()) throw InputError("this engine has no classes", "leave out --class");
  if (label->limit && std::stoll(given->second) >= *label->limit)
    throw InputError("class " + given->second + " is out of range",
                     "this engine knows the classes 0.." + std::to_string(*label->limit - 1));
}

void add(Feeds& feeds, ptq_export::Conditions const& rows) {
  for (auto const& [name, value] : rows) feeds[name] = value;
}

// Conditions of a run that takes prompts which nothing has given yet: those that it was calibrated with.
ptq_export::Arrays examples_of(Denoiser const& denoiser, Arguments const& asked, Feeds const& given,
                               std::int64_t count) {
  std::vector<Input> absent;
  auto const& inputs = denoiser.signature().inputs;
  std::copy_if(inputs.begin() + 2, inputs.end(), std::back_inserter(absent),
               [&](Input const& input) { return !input.limit && given.find(input.name) == given.end(); });
  return ptq_export::examples_of_run(asked.run, absent, count, static_cast<std::uint64_t>(asked.seed));
}

Tensor noise_of(Denoiser const& denoiser, Arguments const& asked) {
  Shape shape = denoiser.signature().sample_shape();
  shape.insert(shape.begin(), asked.count);
  if (asked.noise.empty()) return ptq_export::initial_noise(shape, static_cast<std::uint64_t>(asked.seed));
  Array array = ptq_export::read_npy(asked.noise);
  auto* values = std::get_if<std::vector<float>>(&array.values);
  if (values == nullptr) throw InputError("the noise is int64, not float32", "convert it first");
  if (array.shape.empty()) throw InputError("the noise is one number, not [N, C, ...]");
  return {array.shape, std::move(*values)};
}

void require_picture(std::filesystem::path const& file) {
  if (file.has_extension() && file.extension() != ".png" && file.extension() != ".PNG")
    throw InputError(file.string() + " would hold a PNG picture under another name",
                     "give -o a name that ends in .png");
  if (std::filesystem::exists(file) && !std::filesystem::is_regular_file(file))
    throw InputError(file.string() + " is not a regular file", "give -o another name");
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
}

// Pictures of latents where the run has a decoder, and the range in which they are drawn.
std::optional<std::pair<double, double>> decode(Arguments const& asked, bool latents, Tensor& samples) {
  if (!latents) return ptq_export::NoiseSchedule::of_run(asked.run).sample_range();
  samples = ptq_export::LatentDecoder(asked.run, asked.engine.threads).decode(samples);
  return std::pair{-1.0, 1.0};
}

void sample(Arguments const& asked) {
  require_picture(asked.picture);
  auto const schedule = ptq_export::NoiseSchedule::of_run(asked.run);
  auto const sampler = ptq_export::make_sampler(schedule, asked.sampler, asked.steps);
  for (std::string const& note : ptq_export::sampler_notes(schedule, asked.sampler, asked.steps))
    std::cerr << note << '\n';
  auto const denoiser = ptq_export::open_run(asked.run, asked.engine);
  auto const around = ptq_export::TextToImage::of_run(asked.run);
  require_class(*denoiser, asked);
  Tensor const noise = noise_of(*denoiser, asked);
  std::int64_t const count = noise.shape().at(0);
  Prompted const words = prompted(asked, around, count);
  Kept kept;
  Feeds conditions = feeds_of(asked.conditions, count, kept);
  Feeds away = feeds_of(asked.unconditional, 1, kept);
  add(conditions, words.given);
  add(away, words.away);
  ptq_export::Arrays const examples =
      around.conditions.empty() ? ptq_export::Arrays() : examples_of(*denoiser, asked, conditions, count);
  for (auto const& [name, array] : examples) conditions[name] = array.view();
  double const scale = words.given.empty() ? asked.guidance.value_or(1.0) : words.scale;
  ptq_export::Model model = ptq_export::model_of(*denoiser);
  if (scale != 1.0 || !away.empty()) model = ptq_export::guided(model, static_cast<float>(scale), away);
  bool const whole = denoiser->signature().inputs[1].dtype == ptq_export::DType::int64;
  Tensor samples = ptq_export::sample_loop(model, *sampler, noise, conditions, whole);
  auto const range = decode(asked, around.latents, samples);
  if (!asked.samples.empty()) ptq_export::write_npy(asked.samples, samples);
  ptq_export::write_grid(asked.picture, samples, range);
  std::cout << asked.picture.string() << '\n';
}

}  // namespace

int main(int count, char** words) {
  try {
    if (std::optional<Arguments> const asked = parse(count, words)) sample(*asked);
    return 0;
  } catch (ptq_export::Error const& error) {
    std::cerr << error.what() << '\n';
    return error.exit_code();
  } catch (std::bad_alloc const&) {
    std::cerr << "the memory does not suffice\nask for fewer or smaller samples, or a smaller batch\n";
    return 2;
  } catch (std::filesystem::filesystem_error const& error) {
    std::cerr << error.what() << '\n';
    return 2;
  } catch (std::exception const& error) {
    std::cerr << error.what() << "\nthis is a fault of ptq-export: please report it\n";
    return kFault;
  }
}
