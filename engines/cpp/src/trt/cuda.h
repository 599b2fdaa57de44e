// Device memory and a stream, and errors of the CUDA runtime as exceptions.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>

#include "ptq_export/error.h"

namespace ptq_export::trt {

inline void check(cudaError_t code, std::string const& doing) {
  if (code != cudaSuccess) throw EnvironmentMissing(doing + ": " + cudaGetErrorString(code));
}

// Bytes on the device; it grows and keeps nothing when it does.
class Block {
 public:
  Block() = default;
  ~Block() { cudaFree(memory_); }
  Block(Block const&) = delete;
  Block& operator=(Block const&) = delete;
  Block(Block&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Block& operator=(Block&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  // At least so many bytes.
  void* require(std::size_t bytes) {
    if (bytes <= bytes_) return memory_;
    cudaFree(std::exchange(memory_, nullptr));
    bytes_ = 0;
    check(cudaMalloc(&memory_, bytes), "the GPU's memory does not suffice");
    bytes_ = bytes;
    return memory_;
  }
  [[nodiscard]] void* get() const noexcept { return memory_; }

 private:
  void* memory_ = nullptr;
  std::size_t bytes_ = 0;
};

// Of its own: on the default stream TensorRT waits for the whole device at every step.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "CUDA offers no GPU"); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(Stream const&) = delete;
  Stream& operator=(Stream const&) = delete;
  Stream(Stream&&) = delete;
  Stream& operator=(Stream&&) = delete;
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_{};
};

}  // namespace ptq_export::trt
