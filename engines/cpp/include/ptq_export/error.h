// Everything that this library throws on purpose, with the exit code of the Python command line: 1, 2 or 3.
#pragma once

#include <stdexcept>
#include <string>

namespace ptq_export {

// A failure with a cause and, where there is one, the remedy.
class Error : public std::runtime_error {
 public:
  Error(int exit_code, std::string const& cause, std::string const& remedy)
      : std::runtime_error(remedy.empty() ? cause : cause + "\n" + remedy), exit_code_(exit_code) {}
  [[nodiscard]] int exit_code() const noexcept { return exit_code_; }

 private:
  int exit_code_;
};

// What the caller gave cannot be used: a run folder, a feed, a number of steps.
class InputError : public Error {
 public:
  explicit InputError(std::string const& cause, std::string const& remedy = "") : Error(2, cause, remedy) {}
};

// This machine, or this build of the library, lacks what the engine needs.
class EnvironmentMissing : public Error {
 public:
  explicit EnvironmentMissing(std::string const& cause, std::string const& remedy = "") : Error(3, cause, remedy) {}
};

}  // namespace ptq_export
