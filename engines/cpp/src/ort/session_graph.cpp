#include "ort/session_graph.h"

#include <algorithm>

#include "machine.h"
#include "ort/session.h"
#include "ptq_export/error.h"

namespace ptq_export::ort {

namespace {

std::vector<char const*> pointers(std::vector<std::string> const& names) {
  std::vector<char const*> found;
  found.reserve(names.size());
  for (std::string const& name : names) found.push_back(name.c_str());
  return found;
}

class SessionGraph final : public FloatGraph {
 public:
  SessionGraph(std::filesystem::path const& file, int threads)
      : session_(file, {threads > 0 ? threads : physical_cores(), true, {}}) {}

  [[nodiscard]] std::vector<GraphValue> const& outputs() const noexcept { return session_.outputs(); }
  [[nodiscard]] std::vector<std::string> inputs() const override {
    std::vector<std::string> names;
    for (GraphValue const& value : session_.inputs()) names.push_back(value.name);
    return names;
  }
  [[nodiscard]] std::vector<Tensor> run(std::vector<std::string> const& names, std::vector<TensorView> const& feeds,
                                        std::vector<std::string> const& made) const override {
    return session_.run(pointers(names), feeds, pointers(made));
  }

 private:
  Session session_;
};

}  // namespace

std::unique_ptr<FloatGraph> open_float_graph(std::filesystem::path const& file, std::vector<std::string> const& outputs,
                                             int threads) {
  auto graph = std::make_unique<SessionGraph>(file, threads);
  auto const& made = graph->outputs();
  for (std::string const& name : outputs)
    if (std::none_of(made.begin(), made.end(),
                     [&](GraphValue const& value) { return value.name == name && value.dtype == DType::float32; }))
      throw InputError(file.string() + " makes no " + name + " of float32", "copy the run folder again");
  return graph;
}

}  // namespace ptq_export::ort
