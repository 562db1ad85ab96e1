"""The bundles that ship with lmcli, and the wheel they ship in."""

import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from lmcli.bundle.store import shipped, verify
from lmcli.records.record import Record
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.ner import Ner, NerOptions
from lmcli.tasks.sentiment import Sentiment, SentimentOptions
from lmcli.tasks.translate import Translate, TranslateOptions
from tests import tiny, tiny_seq2seq

ROOT = Path(__file__).parent.parent
CLASSIFIER = ("README.md", "model.onnx", "tokenizer.json")
SEQ2SEQ = ("README.md", "decoder.onnx", "encoder.onnx", "tokenizer.json")
SHIPPED: Mapping[str, Sequence[str]] = {
    "ner-en": CLASSIFIER,
    "sentiment-en": CLASSIFIER,
    "translate-en-fr": SEQ2SEQ,
}
"""The files of each bundle beside its manifest."""
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
# Sentences whose best translation leads by far, so that no rounding changes it.
TRANSLATIONS = [
    ("I am late.", "Je suis en retard.", -0.0854),
    ("Thank you very much!", "Merci beaucoup !", -0.1884),
    ("I have two sisters.", "J'ai deux sœurs.", -0.0832),
    ("My brother works in Paris.", "Mon frère travaille à Paris.", -0.1189),
    ("I don't know what to say.", "Je ne sais pas quoi dire.", -0.16),
    ("He arrived yesterday.", "Il est arrivé hier.", -0.1385),
    ("It is raining.", "Il pleut.", -0.1511),
    ("My father is a doctor.", "Mon père est médecin.", -0.1344),
    ("I've lost my key.", "J'ai perdu ma clé.", -0.1107),
    ("Tom bought a new car.", "Tom a acheté une nouvelle voiture.", -0.082),
    ("Tom is afraid of dogs.", "Tom a peur des chiens.", -0.1129),
    ("My sister is a nurse.", "Ma sœur est infirmière.", -0.1481),
]


def test_what_the_vocabulary_lacks_is_told() -> None:
    with tiny_seq2seq.open_seq2seq(shipped() / "translate-en-fr") as (manifest, engine):
        for retries in (False, True):
            options = TranslateOptions(generation=GenerationOptions(retry_degenerate=retries))
            task = Translate(manifest, engine, options)
            states, clock, good = (
                record.fields
                for record in task(
                    map(Record, ("He comes from the United States.", "It is 7 o'clock.", "I am late."))
                )
            )
            assert states.get("translation_flags") == (None if retries else ["unknown"])
            assert clock["translation_flags"] == ["unknown"]  # its source lacks something, too
            assert "translation_flags" not in good


def test_these_bundles_are_shipped() -> None:
    assert {path.name for path in shipped().iterdir()} >= set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_bundles_are_whole(name: str) -> None:
    assert verify(shipped() / name) == [(file, "ok") for file in SHIPPED[name]]


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


def test_translations_of_own_lines() -> None:
    options = TranslateOptions(generation=GenerationOptions(scores=True))
    with tiny_seq2seq.open_seq2seq(shipped() / "translate-en-fr") as (manifest, engine):
        task = Translate(manifest, engine, options)
        found = [record.fields for record in task(Record(text) for text, *_ in TRANSLATIONS)]
    assert found == [
        {"translation": text, "translation_score": pytest.approx(score, abs=SCORE_TOLERANCE)}
        for _, text, score in TRANSLATIONS
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
    assert inside == {
        f"lmcli/exported/{name}/{file}" for name in SHIPPED for file in ("manifest.json", *SHIPPED[name])
    }


def test_the_wheel_holds_the_sample_lines_of_the_export(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert "lmcli/export/lines.txt" in archive.namelist()


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("command", "bundle", "line", "answer"),
    [
        ("sentiment", "sentiment-en", "What a lovely film!", "POSITIVE\t"),
        ("ner", "ner-en", "She lives in Rome.", "She lives in [Rome](LOC)."),
        ("translate", "translate-en-fr", "It is raining.", "Il pleut.\n"),
    ],
    ids=["sentiment", "ner", "translate"],
)
def test_the_wheel_runs_anywhere(
    command: str,
    bundle: str,
    line: str,
    answer: str,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("LMCLI_HOME", str(tmp_path / "home"))
    done = subprocess.run(
        [sys.executable, "-m", "lmcli", command, "-v"],
        cwd=tmp_path / "elsewhere",
        input=f"{line}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.startswith(answer)) == (0, True), done.stderr
    assert f"bundle {site}/lmcli/exported/{bundle}" in done.stderr
