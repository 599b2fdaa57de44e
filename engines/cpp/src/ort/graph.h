// What a graph of ours says of itself, in its metadata and its inputs (`engines/signature.py`,
// `ptq_export/interface.py`).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ort/session.h"
#include "ptq_export/denoiser.h"

namespace ptq_export::ort {

// What a step graph takes in place of conditions: outputs of the prompt graph beside it.
struct Prompt {
  std::vector<Input> values;
  std::vector<std::string> instead_of;
  std::string sha256;
};

struct Described {
  Signature signature;
  std::optional<Prompt> prompt;
};

// InputError: no denoiser, or its inputs are not those that its metadata states; `name` is its file's.
Described describe(Session const& session, std::string const& name);

}  // namespace ptq_export::ort
