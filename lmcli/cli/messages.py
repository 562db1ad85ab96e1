"""What lmcli says to people: short lines on stderr; and the little that commands without records print."""

import os
import sys

from lmcli.records.terminal import escape_controls


def say(message: str, *, hint: str = "") -> None:
    """Print `lmcli: message` and the hint below it. A closed stderr is no reason to fail."""
    lines = [f"lmcli: {message}"] + ([f"       {hint}"] if hint else [])
    text = "\n".join(lines) + "\n"
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(escape_controls(text) if sys.stderr.isatty() else text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def print_data(text: str) -> None:
    """Write `text` to stdout. Raises StreamError when it cannot be written."""
    from lmcli.records.output import open_output

    with open_output(None) as output:
        output.write(text.encode(errors="backslashreplace"))


def wants_color(choice: str, *, is_terminal: bool) -> bool:
    """The flag decides, then NO_COLOR, FORCE_COLOR, and whether a person looks."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (is_terminal and os.environ.get("TERM") != "dumb")
