// What a denoiser is called with, checked before any runtime sees it, in the words of `engines/feeds.py`.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ptq_export/denoiser.h"

namespace ptq_export {

// InputError: a feed is missing, or the denoiser does not have it.
void check_names(Signature const& signature, Feeds const& feeds);

// InputError: another type or shape than the denoiser takes, another batch than it was compiled for, NaN or infinite.
void check_sample(Signature const& signature, TensorView const& given);

// InputError: another type; integers that are not 0..limit-1; floats that are NaN or infinite; `is_time`: of a
// time-step, whose limit is T.
void check_values(Input const& wanted, TensorView const& given, std::optional<std::int64_t> limit, bool is_time);

// Whether `given` is one number for the whole batch.
bool is_single(Input const& wanted, TensorView const& given);

// One number for each of the batch, in memory that is kept.
TensorView repeated(TensorView const& given, std::int64_t batch, std::vector<std::int64_t>& integers,
                    std::vector<float>& floats);

// InputError: another shape, another number of rows than the sample, or an open size that is another elsewhere.
void check_rows(Input const& wanted, TensorView const& given, std::int64_t batch,
                std::map<std::string, std::int64_t>& sizes);

}  // namespace ptq_export
