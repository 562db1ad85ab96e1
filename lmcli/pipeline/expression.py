"""`Expression`: the condition of a filter, `sentiment.score > 0.9 and lang != "en"`.

The syntax is Python's, and Python parses it. But nothing is ever executed: `_Compiler` makes functions of
the few kinds of nodes that it knows, and refuses all others.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lmcli.pipeline.fragment import STRING, Fragment, PipelineError
from lmcli.pipeline.syntax import EXAMPLE, parse_tree
from lmcli.pipeline.values import (
    COMPARISONS,
    FUNCTIONS,
    ExpressionError,
    find,
    item_at,
    text_of,
    truth,
)
from lmcli.spelling import did_you_mean

__all__ = ["Expression", "ExpressionError"]

_ALLOWED = (
    "there are and, or, not, == != < <= > >= in, names, strings, numbers, [lists], true, false, null, "
    f"{', '.join(f'{name}()' for name in (*FUNCTIONS, 'matches', 'field'))}"
)
_WORDS = {"true": True, "false": False, "null": None}
_PLAIN_STRING = re.compile(rf"[rR]?(?:{STRING})", re.DOTALL)

Evaluate = Callable[[Mapping[str, Any]], Any]


class Expression:
    """A question to the values of a record."""

    def __init__(self, fragment: Fragment, evaluate: Evaluate, places: Mapping[str, tuple[int, int]]) -> None:
        self._fragment = fragment
        self._evaluate = evaluate
        self._places = places
        self.names = tuple(places)
        """The dotted paths that it reads, each once."""

    @classmethod
    def parse(cls, fragment: Fragment) -> Expression:
        """Raises PipelineError for all that is not an expression, and for what none may do."""
        fragment = fragment.stripped()
        tree = parse_tree(fragment)
        compiler = _Compiler(fragment)
        return cls(fragment, compiler.compile(tree), compiler.places)

    def __call__(self, values: Mapping[str, Any]) -> bool:
        """The answer; None counts as false. Raises ExpressionError where the values make no sense."""
        try:
            return truth(self._evaluate(values), "the filter")
        except RecursionError:
            raise ExpressionError("the values are nested too deeply") from None

    def error(self, message: str, name: str, *, hint: str = "") -> PipelineError:
        """An error about one of `names`."""
        return self._fragment.error(message, *self._places[name], hint=hint)


class _Compiler:
    """From nodes of the syntax tree to functions of a record's values."""

    def __init__(self, fragment: Fragment) -> None:
        self._fragment = fragment
        self._bytes = fragment.text.encode()
        self.places: dict[str, tuple[int, int]] = {}

    def compile(self, node: ast.expr) -> Evaluate:
        if (path := _path(node)) is not None:
            self.places.setdefault(path, self._place(node))
            return lambda values: find(values, path)
        match node:
            case ast.BoolOp(op=operator, values=operands):
                return self._chain(operands, stops_at=isinstance(operator, ast.Or))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._boolean(operand)
                return lambda values: not inner(values)
            case ast.Compare():
                return self._comparison(node)
            case ast.List(elts=elements):
                items = [self.compile(element) for element in elements]
                return lambda values: [item(values) for item in items]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self._call(node, name, arguments)
            case ast.Subscript(value=holder, slice=index) if (number := _integer(index)) is not None:
                return self._part(holder, lambda value: item_at(value, number))
            case ast.Attribute(value=holder, attr=name):
                return self._part(holder, lambda value: find(value, name))
            case ast.Subscript(value=holder, slice=ast.Constant(value=str(name))):
                return self._part(holder, lambda value: find(value, name))
        value = self._literal(node)
        return lambda _: value

    def _chain(self, operands: list[ast.expr], *, stops_at: bool) -> Evaluate:
        parts = [self._boolean(operand) for operand in operands]
        if stops_at:
            return lambda values: any(part(values) for part in parts)
        return lambda values: all(part(values) for part in parts)

    def _boolean(self, node: ast.expr) -> Callable[[Mapping[str, Any]], bool]:
        evaluate, what = self.compile(node), " ".join(self._text(node).split())
        return lambda values: truth(evaluate(values), what)

    def _comparison(self, node: ast.Compare) -> Evaluate:
        first, *others = [self.compile(operand) for operand in (node.left, *node.comparators)]
        names = [type(operator).__name__ for operator in node.ops]
        if not COMPARISONS.keys() >= set(names):
            raise self._refuse(node)
        steps = list(zip([COMPARISONS[name] for name in names], others, strict=True))

        def compare(values: Mapping[str, Any]) -> bool:
            left = first(values)
            for holds, operand in steps:
                right = operand(values)
                if not holds(left, right):
                    return False
                left = right
            return True

        return compare

    def _call(self, node: ast.Call, name: str, arguments: list[ast.expr]) -> Evaluate:
        if name == "matches":
            return self._matches(node, arguments)
        if name == "field":
            raise self._error("field() takes a name in quotes", node)
        if name not in FUNCTIONS:
            suggestion = did_you_mean(name, [*FUNCTIONS, "matches", "field"], before="; ")
            raise self._error(f"no function {name!r}{suggestion}", node.func, _ALLOWED)
        function, arity = FUNCTIONS[name]
        if len(arguments) != arity:
            raise self._error(f"{name}() takes {arity} value{'s' * (arity > 1)}", node)
        parts = [self.compile(argument) for argument in arguments]
        return lambda values: function(*[part(values) for part in parts])

    def _matches(self, node: ast.Call, arguments: list[ast.expr]) -> Evaluate:
        match arguments:
            case [subject, ast.Constant(value=str()) as pattern]:
                text, find_in = self.compile(subject), self._regex(pattern)
            case _:
                raise self._error("matches() takes a value and a regular expression in quotes", node)

        def matches(values: Mapping[str, Any]) -> bool:
            value = text_of(text(values), "matches")
            return value is not None and find_in(value) is not None

        return matches

    def _regex(self, node: ast.Constant) -> Callable[[str], re.Match[str] | None]:
        self._literal(node)
        # The backslashes are those of the regular expression: "\b" would be a backspace as a string.
        pattern = self._text(node).lstrip("rR")[1:-1]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return re.compile(pattern).search
        except (re.error, OverflowError, RecursionError) as error:
            raise self._error(f"not a regular expression: {error}", node) from None

    def _part(self, holder: ast.expr, take: Callable[[Any], Any]) -> Evaluate:
        if not isinstance(holder, ast.Attribute | ast.Subscript) and _path(holder) is None:
            raise self._refuse(holder)
        whole = self.compile(holder)
        return lambda values: take(whole(values))

    def _literal(self, node: ast.expr) -> Any:
        match node:
            case ast.Name(id="true" | "false" | "null" as word):
                return _WORDS[word]
            case ast.Constant(value=str(text)):
                if not _PLAIN_STRING.fullmatch(self._text(node)):
                    raise self._error('a string is written as "..."', node)
                return text
            case ast.Constant(value=None | int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if not (
                isinstance(number, bool)
            ):
                return -number
        raise self._refuse(node)

    def _refuse(self, node: ast.expr) -> PipelineError:
        return self._error("an expression cannot do this", node, _ALLOWED)

    def _error(self, message: str, node: ast.expr, hint: str = EXAMPLE) -> PipelineError:
        return self._fragment.error(message, *self._place(node), hint=hint)

    def _text(self, node: ast.expr) -> str:
        start, end = self._place(node)
        return self._fragment.text[start:end]

    def _place(self, node: ast.expr) -> tuple[int, int]:
        """Python counts bytes."""
        end = node.end_col_offset or node.col_offset
        return len(self._bytes[: node.col_offset].decode()), len(self._bytes[:end].decode())


def _path(node: ast.expr) -> str | None:
    """`a.b["c"]` and `field("a.b.c")` as the dotted path that they are; None for all else."""
    match node:
        case ast.Name(id=name) if name not in _WORDS:
            return name
        case ast.Call(func=ast.Name(id="field"), args=[ast.Constant(value=str(path))], keywords=[]):
            return path
        case (
            ast.Attribute(value=holder, attr=name)
            | ast.Subscript(value=holder, slice=ast.Constant(value=str(name)))
        ):
            outer = _path(holder)
            return None if outer is None else f"{outer}.{name}"
    return None


def _integer(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            positive = _integer(operand)
            return None if positive is None else -positive
    return None
