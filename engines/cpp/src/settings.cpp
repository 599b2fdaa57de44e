#include "settings.h"

#include "ptq_export/error.h"

namespace ptq_export {

bool Settings::has(char const* name) const {
  Json const* found = json_->find(name);
  return found != nullptr && !found->is_null();
}

bool Settings::flag(char const* name, bool otherwise) const { return has(name) ? fields().flag(name) : otherwise; }

double Settings::number(char const* name, double otherwise) const {
  return has(name) ? fields().number(name, -1e15, 1e15) : otherwise;
}

std::int64_t Settings::whole(char const* name, std::int64_t otherwise) const {
  return has(name) ? fields().whole(name, -1'000'000, 1'000'000) : otherwise;
}

std::string Settings::text(char const* name, std::string const& otherwise) const {
  return has(name) ? fields().text(name) : otherwise;
}

void Settings::require_off(char const* name, std::string const& sampler) const {
  if (has(name) && flag(name, false))
    throw InputError(sampler + " with " + name + " is not sampled from C++", "take another sampler, or Python");
}

void Settings::require(char const* name, std::string const& only, std::string const& sampler) const {
  std::string const found = text(name, only);
  if (found != only)
    throw InputError(sampler + " with " + name + " = " + fields().any(name).shown() + " is not sampled from C++",
                     "take another sampler, or Python");
}

}  // namespace ptq_export
