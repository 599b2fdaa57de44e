"""Our engines beside what others make of the same FP32 graph and the same calibration pairs, measured in one run."""
