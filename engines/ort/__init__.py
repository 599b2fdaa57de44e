"""ONNX Runtime: on the CPU with operators of our own, and on NVIDIA GPUs through its providers."""
