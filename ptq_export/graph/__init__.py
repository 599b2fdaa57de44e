"""Graphs: the ONNX export of a denoiser, the passes that rewrite it (one per file), and the audit of its codes."""
