"""TensorRT and TensorRT for RTX: plans built from ONNX, run on the GPU, read back by their inspector."""
