#include "forward.h"

#include <algorithm>
#include <cmath>

#include "ptq_export/error.h"
#include "utf8.h"

namespace ptq_export {

namespace {

constexpr double kPi = 3.14159265358979323846;

double cosine(double t) {
  double const root = std::cos((t + 0.008) / 1.008 * kPi / 2);
  return root * root;
}

double laplace(double t) {
  double const lambda = -0.5 * std::copysign(1.0, 0.5 - t) * std::log(1 - 2 * std::fabs(0.5 - t) + 1e-6);
  double const snr = std::exp(lambda);
  return std::sqrt(snr / (1 + snr));
}

// Betas with these products of alphas (diffusers' `betas_for_alpha_bar`).
std::vector<float> from_products(std::size_t total, double (*alpha_bar)(double)) {
  std::vector<float> betas(total);
  auto const steps = static_cast<double>(total);
  for (std::size_t i = 0; i < total; ++i) {
    double const before = alpha_bar(static_cast<double>(i) / steps);
    double const after = alpha_bar(static_cast<double>(i + 1) / steps);
    betas[i] = static_cast<float>(std::min(1 - after / before, 0.999));
  }
  return betas;
}

std::vector<float> plain_betas(NoiseSchedule const& schedule) {
  auto const total = static_cast<std::size_t>(schedule.num_train_timesteps);
  double const start = schedule.beta_start;
  double const end = schedule.beta_end;
  if (!schedule.trained_betas.empty()) return {schedule.trained_betas.begin(), schedule.trained_betas.end()};
  if (schedule.beta_schedule == "linear") return linspace32(start, end, total);
  if (schedule.beta_schedule == "squaredcos_cap_v2") return from_products(total, cosine);
  if (schedule.beta_schedule == "laplace") return from_products(total, laplace);
  if (schedule.beta_schedule == "scaled_linear") {
    std::vector<float> betas = linspace32(std::sqrt(start), std::sqrt(end), total);
    for (float& beta : betas) beta *= beta;
    return betas;
  }
  if (schedule.beta_schedule != "sigmoid")
    throw InputError("the schedule of betas '" + shortened(schedule.beta_schedule) + "' is not known here");
  std::vector<float> betas = linspace32(-6, 6, total);
  for (float& beta : betas)
    beta = 1.0F / (1.0F + std::exp(-beta)) * static_cast<float>(end - start) + static_cast<float>(start);
  return betas;
}

std::vector<float> with_zero_snr(std::vector<float> const& betas) {
  std::vector<float> roots = cumulative_alphas(betas);
  for (float& root : roots) root = std::sqrt(root);
  float const first = roots.front();
  float const last = roots.back();
  float const scale = first / (first - last);
  std::vector<float> rescaled(betas.size());
  float before = 1.0F;
  for (std::size_t t = 0; t < roots.size(); ++t) {
    float const root = (roots[t] - last) * scale;
    float const product = root * root;
    rescaled[t] = 1.0F - (t == 0 ? product : product / before);
    before = product;
  }
  return rescaled;
}

}  // namespace

std::vector<float> make_betas(NoiseSchedule const& schedule) {
  std::vector<float> betas = plain_betas(schedule);
  if (betas.size() != static_cast<std::size_t>(schedule.num_train_timesteps))
    throw InputError("the schedule has " + std::to_string(betas.size()) + " betas for " +
                     std::to_string(schedule.num_train_timesteps) + " time-steps");
  return schedule.rescale_betas_zero_snr ? with_zero_snr(betas) : betas;
}

std::vector<float> cumulative_alphas(std::vector<float> const& betas) {
  std::vector<float> products(betas.size());
  double product = 1.0;  // torch multiplies in float64
  for (std::size_t t = 0; t < betas.size(); ++t) products[t] = static_cast<float>(product *= 1.0F - betas[t]);
  return products;
}

std::vector<float> linspace32(double start, double end, std::size_t count) {
  std::vector<float> values(count, static_cast<float>(start));
  if (count < 2) return values;
  auto const first = static_cast<float>(start);
  auto const last = static_cast<float>(end);
  float const step = (last - first) / static_cast<float>(count - 1);
  for (std::size_t i = 0; i < count; ++i) {  // from both ends, and rounded once, as torch does
    double const exact = i < count / 2 ? first + static_cast<double>(step) * static_cast<double>(i)
                                       : last - static_cast<double>(step) * static_cast<double>(count - 1 - i);
    values[i] = static_cast<float>(exact);
  }
  return values;
}

std::vector<double> linspace64(double start, double end, std::size_t count) {
  std::vector<double> values(count, start);
  if (count < 2) return values;
  double const step = (end - start) / static_cast<double>(count - 1);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<double>(i) * step + start;
  values.back() = end;
  return values;
}

}  // namespace ptq_export
