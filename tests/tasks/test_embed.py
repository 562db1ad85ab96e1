import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmcli.errors import UsageError
from lmcli.records.record import Failure, Record
from lmcli.tasks.embed import Embed, EmbedOptions
from tests import tiny
from tests.tiny_embedder import VECTORS, open_embedder, write_embedder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("bundles") / "vectors", context_length=6)


def records_of(path: Path, records: Sequence[Record], **options: Any) -> list[Record]:
    with open_embedder(path) as embedder:
        return list(Embed(embedder, EmbedOptions(**options))(records))


def test_a_record_gets_the_embedding_of_its_text(vectors: Path) -> None:
    [record] = records_of(vectors, [Record("cat dog", fields={"id": 1})])
    assert record.fields == {"id": 1, "embedding": [7.0, 7.0]}


def test_numbers_have_six_decimals(vectors: Path) -> None:
    [record] = records_of(vectors, [Record("cat cat cat cat dog dog")])
    embedding = record.fields["embedding"]
    assert all(type(number) is float for number in embedding)
    assert embedding == [round(number, 6) for number in embedding]
    assert len(json.dumps(embedding)) <= 24


def test_a_blank_text_has_no_embedding(vectors: Path) -> None:
    [record] = records_of(vectors, [Record(" \t")])
    assert record.fields == {"embedding": None}


def test_a_failed_record_passes_and_a_refused_text_fails_its_record(tmp_path: Path) -> None:
    strict = write_embedder(tmp_path / "strict", tokenizer=tiny.word_level(VECTORS, refuses_unknown=True))
    broken = Record("cat", failure=Failure("encoding", "not UTF-8"))
    first, second, third = records_of(strict, [broken, Record("bird"), Record("cat")])
    assert first == broken
    assert second.failure is not None
    assert second.failure.code == "tokenizer"
    assert third.fields == {"embedding": [3.0, 4.0]}


def test_the_field_has_the_name_that_is_wanted(vectors: Path) -> None:
    [record] = records_of(vectors, [Record("cat")], as_field="vector")
    assert record.fields == {"vector": [3.0, 4.0]}
    with pytest.raises(UsageError, match="--as 'text'"):
        EmbedOptions(as_field="text")


def test_a_line_is_a_json_array(vectors: Path) -> None:
    with open_embedder(vectors) as embedder:
        task = Embed(embedder, EmbedOptions())
        lines = [task.lines(record) for record in task([Record("cat"), Record("")])]
    assert lines == [["[3.0,4.0]"], [""]]
    assert (task.adds, task.columns, task.remarks({})) == (("embedding",), ("embedding",), [])


def test_tokens_are_counted(vectors: Path) -> None:
    blank, one, again = records_of(vectors, [Record(" "), Record("cat dog"), Record("cat dog")], as_field="v")
    assert dict(blank.counts) == {}
    assert dict(one.counts) == dict(again.counts) == {"v.results": 1, "v.tokens": 4}
