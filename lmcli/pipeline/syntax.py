"""`parse_tree`: from the text of an expression to Python's syntax tree, or to an error that helps."""

import ast
import keyword
import re
import warnings

from lmcli.pipeline.fragment import STRING, Fragment, PipelineError

EXAMPLE = 'for example: filter sentiment.score > 0.9 and lang != "en"'

_MAX_CHARS = 10_000
_MAX_DEPTH = 50

# What other languages write, and Python reads as something else or calls invalid without a reason.
_SLIPS = {"=": "write == to compare", "&": "write `and`", "!": "write `not`", "#": "there are no comments"}
_SLIP_OR_SPACE = re.compile(rf"{STRING}|(?P<space>\s)|(?P<slip>(?<![=!<>])=(?!=)|&+|!(?!=)|#)", re.DOTALL)


def parse_tree(fragment: Fragment) -> ast.expr:
    """Python's syntax tree of an expression without white space around it, of a bounded depth.

    Raises PipelineError for what Python refuses, and for what it reads in another sense than is meant.
    """
    text, size = fragment.text, len(fragment.text)
    if not text.strip():
        raise fragment.error("an expression is missing", 0, size, hint=EXAMPLE)
    if size > _MAX_CHARS:
        raise fragment.error(f"an expression of more than {_MAX_CHARS:,} characters", 0, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about "\d"
            tree = ast.parse(_one_line(fragment), mode="eval").body
    except SyntaxError as error:
        raise _not_understood(fragment, error.offset) from None
    except ValueError:  # characters that no source of Python may have
        raise fragment.error("not an expression", 0, size, hint=EXAMPLE) from None
    except (RecursionError, MemoryError):
        raise fragment.error("an expression nested too deeply", 0, size) from None
    _check_depth(fragment, tree)
    return tree


def _one_line(fragment: Fragment) -> str:
    """The text with spaces for all white space, which means nothing here, and much to Python."""

    def replace(found: re.Match[str]) -> str:
        if slip := found["slip"]:
            hint = _SLIPS[slip[0]]
            raise fragment.error(f"{slip!r} is no part of an expression", *found.span(), hint=hint)
        return " " if found["space"] else found[0]

    return _SLIP_OR_SPACE.sub(replace, fragment.text)


def _check_depth(fragment: Fragment, tree: ast.expr) -> None:
    nodes: list[tuple[ast.AST, int]] = [(tree, 1)]
    while nodes:
        node, depth = nodes.pop()
        if depth > _MAX_DEPTH:
            raise fragment.error("an expression nested too deeply", 0, len(fragment.text))
        nodes.extend((child, depth + 1) for child in ast.iter_child_nodes(node))


def _not_understood(fragment: Fragment, place: int | None) -> PipelineError:
    """`place` counts from 1; it is 0 where something is missing at the end."""
    text, size = fragment.text, len(fragment.text)
    if not place or place > size:
        return fragment.error("an expression that ends too early", size, size + 1, hint=EXAMPLE)
    start = place - 1
    word = re.match(r"\w*", text[start:])
    found = word[0] if word else ""
    hint = EXAMPLE
    if keyword.iskeyword(found) and found not in ("and", "or", "not", "in"):
        hint = f'a name with {found!r} in it is written as field("...")'
    return fragment.error("not an expression from here on", start, start + max(1, len(found)), hint=hint)
