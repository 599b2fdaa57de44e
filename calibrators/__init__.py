"""Calibration: pairs from the sampler, ranges, grids, learned rounding, and the quantised denoiser that they make."""
