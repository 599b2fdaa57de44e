"""A Jetson: its engine is built and timed on the device, by the programs in `on_device`, which need JetPack alone."""
