"""`python -m ptq_export.benchmarks.peers`; every worker process imports this file again, so that it holds nothing."""

import sys
from importlib import import_module

if __name__ == "__main__":
    sys.exit(import_module("ptq_export.benchmarks.peers.command").main())
