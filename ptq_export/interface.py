"""The exported denoiser as others see it: the names of its inputs, and what its metadata states about them.

torch is never imported here: engines share these names.
"""

__all__ = ["CLASSES", "INPUTS", "OUTPUT", "TRAIN_TIMESTEPS"]

INPUTS = ("sample", "timestep", "label")
"""What a denoiser reads, in this order; `label` where it is class-conditional."""

OUTPUT = "eps"

TRAIN_TIMESTEPS = "num_train_timesteps"
"""Metadata: T; time-steps are 0..T-1."""

CLASSES = "classes"
"""Metadata of a class-conditional denoiser: how many labels it knows, 0..classes-1."""
