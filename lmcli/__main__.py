"""The entry point: `lmcli` and `python -m lmcli`."""

import sys

from lmcli.cli.app import run

if __name__ == "__main__":
    sys.exit(run())
