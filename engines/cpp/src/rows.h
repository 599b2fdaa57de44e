// Tensors put together row by row.
#pragma once

#include "ptq_export/tensor.h"

namespace ptq_export {

// Puts the rows of `more` behind those of `rows`, which may be empty. InputError: they are of other sizes.
void append_rows(Tensor& rows, Tensor const& more);

}  // namespace ptq_export
