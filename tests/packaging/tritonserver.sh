#!/usr/bin/env bash
# Make an environment with a real tritonserver (its Python backend, no other) and tritonclient, for the slow tests:
#   tests/packaging/tritonserver.sh DIR && PTQ_EXPORT_TRITON=DIR pytest tests/packaging/test_tritonserver.py
# PYTHON is the interpreter: of the version that the tests run with, since the server's stub embeds that one.
set -euo pipefail
"${PYTHON:-python3}" -m venv "$1"
"$1/bin/pip" install --quiet nvidia-pytriton==0.7.0 tritonclient==2.73.0
