// What lies around the denoiser of a text-to-image run: prompts in, pictures out, without Python.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ptq_export/denoiser.h"
#include "ptq_export/files.h"
#include "ptq_export/tensor.h"

namespace ptq_export {

// How prompts become conditions and samples become pictures, as the manifest tells it.
struct TextToImage {
  std::vector<std::string> conditions;  // what the run's text encoder makes of a prompt; none where it takes none
  std::int64_t tokenizers = 0;
  double scale = 1.0;                // of the guidance under which it was calibrated; 1 for none
  std::vector<std::string> prompts;  // those that it was calibrated with
  bool latents = false;              // samples are latents, of which the run's decoder makes pictures

  // InputError: no finished run, or its manifest is damaged.
  static TextToImage of_run(std::filesystem::path const& folder);
};

class FloatGraph;
namespace text {
class Tokenizer;
}

// Rows of conditions, by name: `[N, ...]`.
using Conditions = std::map<std::string, Tensor, std::less<>>;
using Arrays = std::map<std::string, Array, std::less<>>;

// The tokenizers and the text encoder of a run, which ONNX Runtime computes. It may be called from several threads.
class PromptEncoder {
 public:
  // InputError: the run takes no prompts, one of its files has not the manifest's digest, or its tokenizer is not of
  // CLIP's kind. EnvironmentMissing: this library was compiled without ONNX Runtime.
  explicit PromptEncoder(std::filesystem::path const& folder, int threads = 0);
  PromptEncoder(PromptEncoder const&) = delete;
  PromptEncoder& operator=(PromptEncoder const&) = delete;
  PromptEncoder(PromptEncoder&& other) noexcept;
  PromptEncoder& operator=(PromptEncoder&& other) noexcept;
  ~PromptEncoder();

  // What the text encoder makes of these prompts, one row each; an empty prompt takes conditions away, for `guided`.
  // InputError: no prompts, or one is not UTF-8.
  [[nodiscard]] Conditions encode(std::vector<std::string> const& prompts) const;
  // Tokens that a prompt may have before it is cut.
  [[nodiscard]] std::size_t length() const noexcept;
  // Whether one of the tokenizers reads a part of this prompt only.
  [[nodiscard]] bool cuts(std::string const& prompt) const;
  // What the user should know of these prompts: the first that is cut; empty where none is.
  [[nodiscard]] std::string note(std::vector<std::string> const& prompts) const;

 private:
  std::vector<std::string> conditions_;
  std::vector<text::Tokenizer> tokenizers_;
  std::unique_ptr<FloatGraph> graph_;
};

// The decoder of a run, which ONNX Runtime computes. It may be called from several threads.
class LatentDecoder {
 public:
  // InputError: the run has none, or its file has not the manifest's digest. EnvironmentMissing: as above.
  explicit LatentDecoder(std::filesystem::path const& folder, int threads = 0);
  LatentDecoder(LatentDecoder const&) = delete;
  LatentDecoder& operator=(LatentDecoder const&) = delete;
  LatentDecoder(LatentDecoder&& other) noexcept;
  LatentDecoder& operator=(LatentDecoder&& other) noexcept;
  ~LatentDecoder();

  // Pictures `[N, C, H, W]` in [-1, 1] of `latents` `[N, ...]`. InputError: they became NaN or infinite.
  [[nodiscard]] Tensor decode(Tensor const& latents) const;

 private:
  std::string input_;
  std::unique_ptr<FloatGraph> graph_;
};

// Conditions that no prompt decides, `inputs`, for so many samples: rows of what the run was calibrated with, chosen by
// `seed` as `ptq-export sample` chooses them, or the value that a package states.
// InputError: the run has none of that name, or its file is damaged.
Arrays examples_of_run(std::filesystem::path const& folder, std::vector<Input> const& inputs, std::int64_t total,
                       std::uint64_t seed);

}  // namespace ptq_export
