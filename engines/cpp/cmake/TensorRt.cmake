# The target ptq_export_tensorrt: TensorRT 8.5 or newer with its plugins, and the CUDA runtime.
if(NOT TARGET ptq_export_tensorrt)
  find_package(CUDAToolkit QUIET)
  find_path(TENSORRT_INCLUDE NvInferRuntime.h HINTS "${TENSORRT_ROOT}/include"
    PATH_SUFFIXES aarch64-linux-gnu x86_64-linux-gnu)
  find_library(TENSORRT_LIBRARY nvinfer HINTS "${TENSORRT_ROOT}/lib")
  find_library(TENSORRT_PLUGIN_LIBRARY nvinfer_plugin HINTS "${TENSORRT_ROOT}/lib")
  find_path(CUDA_INCLUDE cuda_runtime_api.h HINTS ${CUDAToolkit_INCLUDE_DIRS} /usr/local/cuda/include)
  find_library(CUDA_LIBRARY cudart HINTS ${CUDAToolkit_LIBRARY_DIR} /usr/local/cuda/lib64)
  foreach(part TENSORRT_INCLUDE TENSORRT_LIBRARY TENSORRT_PLUGIN_LIBRARY CUDA_INCLUDE CUDA_LIBRARY)
    if(NOT ${part})
      message(FATAL_ERROR "${part} was not found: give -DTENSORRT_ROOT=, or -D${part}= itself")
    endif()
  endforeach()
  add_library(ptq_export_tensorrt INTERFACE IMPORTED)
  set_target_properties(ptq_export_tensorrt PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${TENSORRT_INCLUDE};${CUDA_INCLUDE}"
    INTERFACE_LINK_LIBRARIES "${TENSORRT_LIBRARY};${TENSORRT_PLUGIN_LIBRARY};${CUDA_LIBRARY}")
endif()
