"""Figures of serving, each from the program that measures it: `python -m ptq_export.benchmarks.serving.NAME RUN`."""
