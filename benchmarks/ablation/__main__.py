"""`python -m ptq_export.benchmarks.ablation`."""

import sys

from ptq_export.benchmarks.ablation.command import main

if __name__ == "__main__":
    sys.exit(main())
