// The prompt graph beside a step graph: what conditions alone decide, computed once per prompt (`engines/prompt.py`).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "ort/graph.h"
#include "ort/session.h"
#include "ptq_export/denoiser.h"

namespace ptq_export::ort {

class PromptGraph {
 public:
  // InputError: the file beside `source` is absent, damaged, or makes other values from other conditions.
  PromptGraph(std::filesystem::path const& source, Prompt const& prompt, Signature const& signature, int threads);

  [[nodiscard]] std::vector<std::string> const& names() const noexcept { return names_; }
  // Its values for these feeds, in the order of the signature's inputs: those of the last call where the conditions are
  // the same numbers.
  std::vector<Tensor> const& values(std::vector<TensorView> const& feeds);

 private:
  [[nodiscard]] bool is_known(std::vector<TensorView> const& feeds) const;

  Session session_;
  std::vector<Input> made_;
  std::vector<std::string> names_;
  std::vector<std::size_t> reads_;  // of the signature's inputs
  std::vector<char const*> read_names_, made_names_;
  struct Known {
    Shape shape;
    std::string bytes;
  };
  std::vector<Known> known_;
  std::vector<Tensor> values_;
};

}  // namespace ptq_export::ort
