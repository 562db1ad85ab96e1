"""lmcli: grep and jq for language models. See docs/design.md for the layers."""

__version__ = "0.1.0"
