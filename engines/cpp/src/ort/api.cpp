#include "ort/api.h"

#include "ort/session.h"
#include "ptq_export/error.h"

namespace ptq_export::ort {

OrtApi const& api() {
  static OrtApi const* const table = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (table == nullptr)
    throw EnvironmentMissing("ONNX Runtime " + std::string(OrtGetApiBase()->GetVersionString()) +
                                 " is older than the headers that this program was compiled with, 1." +
                                 std::to_string(ORT_API_VERSION),
                             "give it a newer libonnxruntime.so, or compile it with older headers");
  return *table;
}

std::string version() {
  static_cast<void>(api());
  return OrtGetApiBase()->GetVersionString();
}

std::string message_of(OrtStatus* status) {
  if (status == nullptr) return "";
  std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  return message.empty() ? "it does not say why" : message;
}

void check(OrtStatus* status, std::string const& doing) {
  if (std::string const message = message_of(status); !message.empty())
    throw InputError(doing + ": " + message, "export it again");
}

}  // namespace ptq_export::ort
