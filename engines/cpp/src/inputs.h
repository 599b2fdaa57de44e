// The inputs of a denoiser as JSON tells them, in a graph's metadata or in a manifest.
#pragma once

#include <string>
#include <vector>

#include "ptq_export/denoiser.h"
#include "ptq_export/json.h"

namespace ptq_export {

// InputError: no inputs, or two of one name; `where` names what says so.
std::vector<Input> inputs_of(Json const& value, std::string const& where);

// InputError: they are not a sample of known sizes, a time-step, and conditions.
void require_denoiser(std::vector<Input> const& inputs, std::string const& name);

}  // namespace ptq_export
