"""CUDA without any engine: the GPU as its driver tells it, and the memory, streams and graphs of its runtime."""
