# The target onnxruntime::onnxruntime: from -DONNXRUNTIME_ROOT=, or from a package (vcpkg, conan, Debian, the release
# archive). Its headers may be older than its library, never newer.
if(ONNXRUNTIME_ROOT AND NOT TARGET onnxruntime::onnxruntime)
  find_path(ONNXRUNTIME_INCLUDE onnxruntime_c_api.h PATHS "${ONNXRUNTIME_ROOT}/include"
    PATH_SUFFIXES onnxruntime onnxruntime/core/session NO_DEFAULT_PATH)
  find_library(ONNXRUNTIME_LIBRARY onnxruntime PATHS "${ONNXRUNTIME_ROOT}" PATH_SUFFIXES lib lib64 NO_DEFAULT_PATH)
  if(NOT ONNXRUNTIME_INCLUDE OR NOT ONNXRUNTIME_LIBRARY)
    message(FATAL_ERROR "ONNXRUNTIME_ROOT=${ONNXRUNTIME_ROOT} has no include/onnxruntime_c_api.h, or no "
      "lib/libonnxruntime.so: unpack a release archive of ONNX Runtime there")
  endif()
  add_library(onnxruntime::onnxruntime SHARED IMPORTED)
  set_target_properties(onnxruntime::onnxruntime PROPERTIES IMPORTED_LOCATION "${ONNXRUNTIME_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${ONNXRUNTIME_INCLUDE}")
endif()
if(NOT TARGET onnxruntime::onnxruntime)
  find_package(onnxruntime QUIET)
endif()
if(NOT TARGET onnxruntime::onnxruntime)
  message(FATAL_ERROR "ONNX Runtime was not found: give -DONNXRUNTIME_ROOT= a folder with its include and lib, or "
    "CMAKE_PREFIX_PATH one with its CMake package")
endif()
