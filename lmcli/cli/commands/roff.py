"""Manual pages as groff and mandoc read them: titles, sections, paragraphs, definitions, examples."""

import re

# What roff takes for something else, or shows as another character than one would copy and type.
_SPECIAL = str.maketrans(
    {
        "\\": "\\e",
        "-": "\\-",
        "'": "\\(aq",
        "`": "\\(ga",
        "^": "\\(ha",
        "~": "\\(ti",
        '"': "\\(dq",
    }
)
_PARAGRAPH = ".PP\n"
_OPTION = re.compile(r"(?<!\S)(-[\w-]+)")


def escape(text: str) -> str:
    """`text` as roff shows it character by character. No line begins with a command."""
    return re.sub(r"^\.", r"\\&.", text.translate(_SPECIAL), flags=re.MULTILINE)


def title(name: str, source: str) -> str:
    """The beginning of a page: its title, and no hyphens but those that one types."""
    return f'.TH "{escape(name.upper())}" "1" "" "{escape(source)}" "lmcli manual"\n.nr HY 0\n.nh\n.ad l\n'


def section(name: str, body: str) -> str:
    """A section, or nothing if it is empty."""
    return f".SH {name}\n{body.removeprefix(_PARAGRAPH)}" if body else ""


def prose(text: str) -> str:
    """A paragraph; code in backticks is bold."""
    return f"{_PARAGRAPH}{_filled(text)}\n"


def definition(term: str, text: str) -> str:
    """A term with its description below; the options in the term are bold, what they take is not."""
    parts = _OPTION.split(term)
    # Without options a term is a name or a code.
    marked = [
        _bold(part) if index % 2 or len(parts) == 1 else escape(part) for index, part in enumerate(parts)
    ]
    return f".TP\n{''.join(marked)}\n{_filled(text)}\n"


def example(line: str) -> str:
    """A command to type, as it is."""
    return f"{_PARAGRAPH}.EX\n{escape(line)}\n.EE\n"


def _filled(text: str) -> str:
    """Text whose lines may be broken anew."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:  # a single backtick is one
        return escape("`".join(parts))
    return "".join(_bold(part) if index % 2 else escape(part) for index, part in enumerate(parts)) or "\\&"


def _bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"
