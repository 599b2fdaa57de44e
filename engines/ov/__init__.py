"""OpenVINO on x86 CPUs."""
