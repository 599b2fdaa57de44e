"""Tables 2 to 4 of PTQ4DM (arXiv:2211.15736) on a model of yours: `python -m ptq_export.benchmarks.ablation`."""
