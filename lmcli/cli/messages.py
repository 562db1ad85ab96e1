"""What lmcli says to people: short lines on stderr; and the little that commands without records print."""

import os
import sys

from lmcli.records.terminal import escape_controls


def say(message: str, *, hint: str = "") -> None:
    """Print `lmcli: message` and the hint below it. A closed stderr is no reason to fail."""
    lines = [f"lmcli: {one_line(message)}"] + ([f"       {one_line(hint)}"] if hint else [])
    text = "\n".join(lines) + "\n"
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(escape_controls(text) if sys.stderr.isatty() else text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def one_line(text: str) -> str:
    """A message with the newlines that a file name or an exception may hold written out."""
    return text.replace("\n", "\\n")


def print_data(text: str, *, styled: bool = False) -> None:
    """Write `text` to stdout. Raises StreamError when it cannot be written.

    On a terminal its control characters are shown, unless it is `styled`, by Rich, on purpose.
    """
    from lmcli.records.output import open_output

    with open_output(None) as output:
        if not styled and sys.stdout.isatty():
            text = escape_controls(text)
        output.write(text.encode(errors="backslashreplace"))


def wants_color(choice: str, *, is_terminal: bool) -> bool:
    """The flag decides, then NO_COLOR, then whether a person looks.

    FORCE_COLOR is not asked: CI systems set it for everything, and this is data.
    """
    if choice != "auto":
        return choice == "always"
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
