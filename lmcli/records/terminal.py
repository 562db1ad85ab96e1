"""`escape_controls`: text that cannot play tricks on a terminal."""

import re

# C0 without tab and newline, DEL, C1, and the characters that override or isolate direction.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    r"""Show control characters as `\x1b` or `\u202e`; newline and tab stay.

    C0 controls cannot stand in JSON, all others are written as JSON writes them, so that a line of
    JSON stays one.
    """
    return _CONTROLS.sub(_escape, text)


def _escape(control: re.Match[str]) -> str:
    code = ord(control[0])
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"
