"""Measurements of an engine: latency per denoising step, memory, and fidelity to the full-precision model."""
