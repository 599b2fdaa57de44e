// This machine, as Python's half of the project names it: what the identity of an engine is compared with.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace ptq_export {

std::string system_name();   // linux
std::string machine_name();  // x86_64

// Those of this processor that decide which kernels an engine picks, in Linux' spelling.
std::vector<std::string> instruction_sets();

// Cores that this process may use.
int physical_cores();

// `$XDG_CACHE_HOME/ptq-export`, or `~/.cache/ptq-export`, where Python notes what it built.
std::filesystem::path user_cache();

}  // namespace ptq_export
