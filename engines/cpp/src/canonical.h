// JSON as `json.dumps(value, sort_keys=True, separators=(",", ":"))` writes it: what Python's digests are taken of.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "identity.h"
#include "ptq_export/json.h"

namespace ptq_export {

std::string json_text(std::string_view text);
std::string canonical(Json const& value);
std::string canonical(std::vector<std::pair<std::string, Json>> const& sorted);
std::string canonical(Identity const& identity);

}  // namespace ptq_export
