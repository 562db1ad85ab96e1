"""`Filter`: keeps the records for which an expression is true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from lmcli.pipeline.expression import Expression, ExpressionError
from lmcli.records.record import Record


class Filter:
    """Drops each open record for which the expression is false; where it makes no sense the record fails."""

    adds: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def __init__(self, expression: Expression) -> None:
        self._is_wanted = expression

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Filter records lazily; what is dropped keeps its place."""
        return (self._judge(record) if record.is_open else record for record in records)

    def lines(self, record: Record) -> list[str]:
        """The text."""
        return [record.text]

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def _judge(self, record: Record) -> Record:
        try:
            is_wanted = self._is_wanted(record.all_values())
        except ExpressionError as error:
            return record.failed("filter", str(error))
        return record if is_wanted else record.dropped()
