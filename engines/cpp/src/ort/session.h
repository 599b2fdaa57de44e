// A session of ONNX Runtime, by its C interface: its C++ one would clash with another version of it in a user's
// program.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "ptq_export/denoiser.h"

struct OrtSession;

namespace ptq_export::ort {

// A value that a graph takes or makes; `dtype` is empty where it is neither float32 nor int64.
struct GraphValue {
  std::string name;
  std::optional<DType> dtype;
  std::vector<Input::Size> shape;
};

struct SessionSettings {
  int threads = 1;
  bool optimise = true;             // or the graph is one that was optimised already
  std::filesystem::path operators;  // this package's, to be registered; none where empty
};

// The version of the library at hand, e.g. `1.32.0`. EnvironmentMissing: it is older than the headers.
std::string version();

class Session {
 public:
  // InputError: ONNX Runtime cannot load `model` or the operators.
  Session(std::filesystem::path const& model, SessionSettings const& settings);

  [[nodiscard]] std::vector<GraphValue> const& inputs() const noexcept { return inputs_; }
  [[nodiscard]] std::vector<GraphValue> const& outputs() const noexcept { return outputs_; }
  // Of the graph's metadata.
  [[nodiscard]] std::optional<std::string> metadata(std::string const& key) const;

  // Computes into `output`, which has the shape that comes out, without a copy on either side.
  void run(std::vector<char const*> const& names, std::vector<TensorView> const& feeds, char const* made,
           Tensor& output) const;
  // All outputs, of shapes that only the graph knows.
  [[nodiscard]] std::vector<Tensor> run(std::vector<char const*> const& names, std::vector<TensorView> const& feeds,
                                        std::vector<char const*> const& made) const;

 private:
  struct Release {
    void operator()(OrtSession* session) const noexcept;
  };
  std::string name_;
  std::unique_ptr<OrtSession, Release> session_;
  std::vector<GraphValue> inputs_, outputs_;
};

}  // namespace ptq_export::ort
