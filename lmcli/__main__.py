"""The entry point: `lmcli` and `python -m lmcli`."""

import sys

from lmcli.cli.signals import Stopped, let_signals_kill, stop_on_signals


def main() -> int:
    """Run the command line; the exit status."""
    stop_on_signals()
    try:
        from lmcli.cli.app import run

        code = run()
        let_signals_kill()
        return code
    except Stopped as stopped:  # while the command line itself was loading
        return stopped.exit_code or 0


if __name__ == "__main__":
    sys.exit(main())
