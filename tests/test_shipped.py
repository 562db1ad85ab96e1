"""The bundles that ship with lmcli, and the wheel they ship in."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lmcli.bundle.store import shipped, verify
from lmcli.records.record import Record
from lmcli.tasks.ner import Ner, NerOptions
from lmcli.tasks.sentiment import Sentiment, SentimentOptions
from tests import tiny

ROOT = Path(__file__).parent.parent
SHIPPED = ("ner-en", "sentiment-en")
# Integer kernels round in another way on each kind of processor.
SCORE_TOLERANCE = 0.02

MOODS = [
    ("What a lovely evening, we laughed until midnight.", "POSITIVE", 0.9963),
    ("The soup was cold and the waiter could not have cared less.", "NEGATIVE", 0.9919),
    ("I would gladly buy this wonderful lamp again.", "POSITIVE", 0.9888),
    ("It broke on the first day, a terrible waste of money.", "NEGATIVE", 0.9971),
    ("Not bad at all!", "POSITIVE", 0.9983),
    ("The sequel is not nearly as good as the first book.", "NEGATIVE", 0.9975),
    ("A dull, endless lecture.", "NEGATIVE", 0.9972),
    ("My grandmother says it is the best radio she has ever owned.", "POSITIVE", 0.9983),
    ("Refund refused, support silent, never again.", "NEGATIVE", 0.9931),
    ("She sings beautifully and the band is tight.", "POSITIVE", 0.9985),
    ("Terrible sound, terrible picture, terrible story.", "NEGATIVE", 0.9979),
    ("The room smelled of smoke and the bed was broken.", "NEGATIVE", 0.9964),
]
NAMES: list[tuple[str, list[tuple[str, str, float]]]] = [
    (
        "Ada Lovelace wrote to Charles Babbage from London.",
        [("PER", "Ada Lovelace", 0.997), ("PER", "Charles Babbage", 0.9964), ("LOC", "London", 0.9967)],
    ),
    (
        "The train from Vienna to Budapest was late again.",
        [("LOC", "Vienna", 0.9965), ("LOC", "Budapest", 0.9964)],
    ),
    (
        "Toyota and Honda will build cars in Kentucky.",
        [("ORG", "Toyota", 0.9957), ("ORG", "Honda", 0.9938), ("LOC", "Kentucky", 0.9963)],
    ),
    ("Nothing happened on Tuesday.", []),
    (
        "Jane Goodall spoke in Oxford, then in Cambridge.",
        [("PER", "Jane Goodall", 0.997), ("LOC", "Oxford", 0.9914), ("LOC", "Cambridge", 0.995)],
    ),
    (
        "Lionel Messi scored twice against Brazil.",
        [("PER", "Lionel Messi", 0.9939), ("LOC", "Brazil", 0.9965)],
    ),
    (
        "The European Union fined Microsoft.",
        [("ORG", "European Union", 0.9897), ("ORG", "Microsoft", 0.9925)],
    ),
    (
        "My cousin Tomás lives near Nairobi in Kenya.",
        [("PER", "Tomás", 0.9947), ("LOC", "Nairobi", 0.9954), ("LOC", "Kenya", 0.9961)],
    ),
    (
        "Reuters reported that Angela Merkel met Emmanuel Macron in Berlin.",
        [
            ("ORG", "Reuters", 0.9959),
            ("PER", "Angela Merkel", 0.9969),
            ("PER", "Emmanuel Macron", 0.9957),
            ("LOC", "Berlin", 0.9968),
        ],
    ),
    ("the cat sat on the mat", []),
    ("Shares of Nokia fell in Helsinki on Friday.", [("ORG", "Nokia", 0.944), ("LOC", "Helsinki", 0.9964)]),
    (
        "Hiroshi Tanaka flew from Tokyo to New York.",
        [("PER", "Hiroshi Tanaka", 0.9969), ("LOC", "Tokyo", 0.9965), ("LOC", "New York", 0.9943)],
    ),
]


def test_these_bundles_are_shipped() -> None:
    assert {path.name for path in shipped().iterdir()} >= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles_are_whole(name: str) -> None:
    assert verify(shipped() / name) == [
        ("README.md", "ok"),
        ("model.onnx", "ok"),
        ("tokenizer.json", "ok"),
    ]


def test_sentiment_of_own_lines() -> None:
    with tiny.open_encoder(shipped() / "sentiment-en") as (manifest, encoder):
        task = Sentiment(manifest, encoder, SentimentOptions())
        found = [record.fields["sentiment"] for record in task(Record(text) for text, *_ in MOODS)]
    assert found == [
        {"label": label, "score": pytest.approx(score, abs=SCORE_TOLERANCE)} for _, label, score in MOODS
    ]


def test_entities_of_own_lines() -> None:
    with tiny.open_encoder(shipped() / "ner-en") as (manifest, encoder):
        task = Ner(manifest, encoder, NerOptions())
        records = list(task(Record(text) for text, _ in NAMES))
    found = [
        [(entity["label"], entity["text"], entity["score"]) for entity in record.fields["entities"]]
        for record in records
    ]
    assert found == [
        [(label, text, pytest.approx(score, abs=SCORE_TOLERANCE)) for label, text, score in entities]
        for _, entities in NAMES
    ]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    [path] = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_bundles(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("lmcli/exported/")}
    files = ("README.md", "manifest.json", "model.onnx", "tokenizer.json")
    assert inside == {f"lmcli/exported/{name}/{file}" for name in SHIPPED for file in files}


def test_the_wheel_holds_the_sample_lines_of_the_export(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "lmcli/export/lines.txt" in archive.namelist()


def test_the_wheel_runs_anywhere(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("LMCLI_HOME", str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-m", "lmcli", "sentiment", "-v"],
        cwd=tmp_path / "elsewhere",
        input="What a lovely film!\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.split("\t")[0]) == (0, "POSITIVE"), done.stderr
    assert f"bundle {tmp_path}/site/lmcli/exported/sentiment-en" in done.stderr
