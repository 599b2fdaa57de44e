#include "ptq_export/denoiser.h"

#include "feeds.h"

namespace ptq_export {

std::string Input::shown() const {
  std::string text = name + " [N";
  for (Size const& size : shape) {
    auto const* number = std::get_if<std::int64_t>(&size);
    text += ", " + (number != nullptr ? std::to_string(*number) : std::get<std::string>(size));
  }
  return text + (dtype == DType::float32 ? "] float32" : "] int64");
}

Shape Signature::sample_shape() const {
  Shape sizes;
  for (Input::Size const& size : inputs.front().shape) sizes.push_back(std::get<std::int64_t>(size));
  return sizes;
}

Shape Signature::output_shape(std::int64_t batch_size) const {
  Shape shape = sample_shape();
  shape.front() = channels;
  shape.insert(shape.begin(), batch_size);
  return shape;
}

Denoiser::Denoiser(Signature signature)
    : signature_(std::move(signature)), integers_(signature_.inputs.size()), floats_(signature_.inputs.size()) {}

Tensor Denoiser::run(Feeds const& feeds) {
  Tensor prediction;
  run(feeds, prediction);
  return prediction;
}

void Denoiser::run(Feeds const& feeds, Tensor& prediction) {
  check_names(signature_, feeds);
  checked_.clear();
  std::map<std::string, std::int64_t> sizes;
  for (std::size_t index = 0; index < signature_.inputs.size(); ++index) {
    Input const& input = signature_.inputs[index];
    TensorView const& given = feeds.find(input.name)->second;
    if (index == 0) {
      check_sample(signature_, given);
      checked_.push_back(given);
      continue;
    }
    check_values(input, given, index == 1 ? signature_.num_train_timesteps : input.limit, index == 1);
    std::int64_t const batch = checked_.front().shape().front();
    checked_.push_back(is_single(input, given) ? repeated(given, batch, integers_[index], floats_[index]) : given);
    check_rows(input, checked_.back(), batch, sizes);
  }
  prediction.resize(signature_.output_shape(checked_.front().shape().front()));
  compute(checked_, prediction);
}

}  // namespace ptq_export
