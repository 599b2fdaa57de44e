"""Time, memory and energy of a step: interleaved rounds, on a CPU and on a GPU, and what they come to."""
