"""ONNX Runtime on NVIDIA GPUs: its TensorRT provider for int8, its CUDA provider for float16."""
