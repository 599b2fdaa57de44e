#include "rows.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ptq_export/error.h"

namespace ptq_export {

void append_rows(Tensor& rows, Tensor const& more) {
  if (rows.shape().empty()) {
    rows = more;
    return;
  }
  Shape shape = more.shape();
  if (shape.empty() || shape.size() != rows.shape().size() ||
      !std::equal(shape.begin() + 1, shape.end(), rows.shape().begin() + 1))
    throw InputError("rows of " + shown(rows.shape()) + " are followed by some of " + shown(shape),
                     "copy the run folder again");
  shape.front() += rows.shape().front();
  std::vector<float> values(rows.data(), rows.data() + rows.size());
  values.insert(values.end(), more.data(), more.data() + more.size());
  rows = Tensor(std::move(shape), std::move(values));
}

}  // namespace ptq_export
