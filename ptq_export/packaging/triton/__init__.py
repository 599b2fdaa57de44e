"""The format `triton`: a model repository of Triton Inference Server, and what its models compute."""
