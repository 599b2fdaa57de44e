#include "ptq_export/sampling.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "ptq_export/error.h"

namespace ptq_export {

namespace {

// Numbers of either type, twice as many rows as a condition has: first the row taken away or the condition itself, then
// the condition.
class Doubled {
 public:
  TensorView of(std::string const& name, TensorView const& given, TensorView const* away) {
    if (given.shape().empty()) throw InputError(name + " needs one row per sample where it is guided");
    std::size_t const numbers = count(given.shape());
    std::size_t const width = given.dtype() == DType::float32 ? sizeof(float) : sizeof(std::int64_t);
    Shape shape = given.shape();
    std::size_t const rows = static_cast<std::size_t>(shape[0]);
    if (away != nullptr && !is_row_of(*away, given))
      throw InputError(name + " is " + shown(given.shape()) + ", its unconditional row " + shown(away->shape()),
                       "pad one of them");
    words_.resize((2 * numbers * width + sizeof(std::int64_t) - 1) / sizeof(std::int64_t));
    char* bytes = reinterpret_cast<char*>(words_.data());
    std::size_t const row = rows == 0 ? 0 : numbers * width / rows;
    for (std::size_t index = 0; index < rows; ++index)
      std::memcpy(bytes + index * row,
                  away != nullptr ? away->data() : static_cast<char const*>(given.data()) + index * row, row);
    std::memcpy(bytes + rows * row, given.data(), rows * row);
    shape[0] *= 2;
    if (given.dtype() == DType::int64) return {words_.data(), shape};
    return {reinterpret_cast<float const*>(words_.data()), shape};
  }

 private:
  static bool is_row_of(TensorView const& row, TensorView const& given) {
    return row.dtype() == given.dtype() && row.shape().size() == given.shape().size() && row.shape()[0] == 1 &&
           std::equal(row.shape().begin() + 1, row.shape().end(), given.shape().begin() + 1);
  }
  std::vector<std::int64_t> words_;
};

class Guided {
 public:
  Guided(Model model, float scale, Feeds unconditional)
      : model_(std::move(model)), scale_(scale), unconditional_(std::move(unconditional)) {
    if (unconditional_.empty())
      throw InputError("guidance wants one row of every condition that it takes away", "give tensors [1, ...]");
  }

  void operator()(Feeds const& feeds, Tensor& prediction) {
    for (auto const& each : unconditional_)
      if (feeds.find(each.first) == feeds.end())
        throw InputError(each.first + " is missing: there is nothing to guide towards", "give it by its name");
    Feeds both;
    for (auto const& [name, value] : feeds) {
      auto const away = unconditional_.find(name);
      both[name] = doubled_[name].of(name, value, away == unconditional_.end() ? nullptr : &away->second);
    }
    model_(both, made_);
    TensorView const& sample = feeds.at("sample");
    Shape shape = made_.shape();
    shape[0] /= 2;
    prediction.resize(shape);
    std::size_t const rows = static_cast<std::size_t>(shape[0]);
    std::size_t const stride = rows == 0 ? 0 : prediction.size() / rows;
    std::size_t const guided = rows == 0 ? 0 : count(sample.shape()) / rows;  // a learned variance follows
    for (std::size_t row = 0; row < rows; ++row) {
      float const* without = made_.data() + row * stride;
      float const* given = made_.data() + (rows + row) * stride;
      float* out = prediction.data() + row * stride;
      for (std::size_t i = 0; i < stride; ++i)
        out[i] = i < guided ? without[i] + scale_ * (given[i] - without[i]) : given[i];
    }
  }

 private:
  Model model_;
  float scale_;
  Feeds unconditional_;
  std::map<std::string, Doubled> doubled_;
  Tensor made_;
};

}  // namespace

Model model_of(Denoiser& denoiser) {
  return [&denoiser](Feeds const& feeds, Tensor& prediction) { denoiser.run(feeds, prediction); };
}

Model guided(Model model, float scale, Feeds unconditional) {
  auto const wrapped = std::make_shared<Guided>(std::move(model), scale, std::move(unconditional));
  return [wrapped](Feeds const& feeds, Tensor& prediction) { (*wrapped)(feeds, prediction); };
}

Tensor sample_loop(Model const& model, Sampler& sampler, Tensor const& noise, Feeds const& conditions,
                   bool whole_timesteps, std::function<void(Step const&)> const& callback) {
  if (noise.shape().size() < 2 || noise.size() == 0)
    throw InputError("the noise is " + shown(noise.shape()) + ", not [N, C, ...]", "give one sample at least");
  Tensor sample = noise;
  Tensor seen;
  Tensor prediction;
  float const sigma = sampler.initial_sigma();
  for (std::size_t i = 0; i < sample.size(); ++i) sample[i] *= sigma;
  auto const batch = static_cast<std::size_t>(noise.shape().at(0));
  std::vector<std::int64_t> whole(batch);
  std::vector<float> continuous(batch);
  std::vector<double> const times = sampler.timesteps();
  for (std::size_t index = 0; index < times.size(); ++index) {
    sampler.scale(sample, seen);
    std::fill(whole.begin(), whole.end(), static_cast<std::int64_t>(times[index]));
    std::fill(continuous.begin(), continuous.end(), static_cast<float>(times[index]));
    Feeds feeds = conditions;
    feeds["sample"] = seen;
    Shape const rows{noise.shape()[0]};
    feeds["timestep"] = whole_timesteps ? TensorView(whole.data(), rows) : TensorView(continuous.data(), rows);
    model(feeds, prediction);
    sampler.step(prediction, sample);
    if (callback) callback({index, times[index], seen, prediction, sample});
  }
  return sample;
}

}  // namespace ptq_export
