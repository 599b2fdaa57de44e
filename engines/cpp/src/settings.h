// What a scheduler_config.json says beside the forward process, by name, with diffusers' default where it is silent.
#pragma once

#include <cstdint>
#include <string>

#include "ptq_export/schedule.h"

namespace ptq_export {

class Settings {
 public:
  explicit Settings(NoiseSchedule const& schedule) : json_(&schedule.settings) {}

  [[nodiscard]] bool flag(char const* name, bool otherwise) const;
  [[nodiscard]] double number(char const* name, double otherwise) const;
  [[nodiscard]] std::int64_t whole(char const* name, std::int64_t otherwise) const;
  [[nodiscard]] std::string text(char const* name, std::string const& otherwise) const;
  // Null counts as silent.
  [[nodiscard]] bool has(char const* name) const;
  // InputError: the configuration switches on what `sampler` has not got here.
  void require_off(char const* name, std::string const& sampler) const;
  // InputError: it says something else than `only`.
  void require(char const* name, std::string const& only, std::string const& sampler) const;

 private:
  [[nodiscard]] Fields fields() const { return {*json_, "the schedule's settings"}; }
  Json const* json_;
};

}  // namespace ptq_export
