"""lmcli: grep and jq for language models. See docs/design.md for the layers."""

import os

# ONNX Runtime tells its makers of each run unless this is set before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
