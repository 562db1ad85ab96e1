"""The fast graphs of encoder-decoders under the engine's searches, against transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from lmcli.engine.cache import InPlaceCache
from lmcli.engine.seq2seq import Hypothesis, Seq2Seq, Source
from lmcli.errors import UnavailableError, UsageError

pytest.importorskip("torch")

from lmcli.export.quantize import quantize
from lmcli.export.seq2seq import build_seq2seq
from lmcli.export.seq2seq_shape import read_weights, shape_of
from tests.export.seq2seq_models import (
    EOS,
    FAST,
    VOCAB_SIZE,
    config_of,
    generate,
    make_model,
    open_engine,
    random_sources,
)

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

LENGTHS = (1, 9, 16, 17, 17, 33)


def build(
    model: Any, folder: Path, *, in_place: bool = True, threads: int = 1, int8: bool = False
) -> Seq2Seq:
    shape = shape_of(model.config)
    assert shape is not None
    graphs = build_seq2seq(read_weights(model), shape, in_place=in_place)
    if int8:
        for graph in graphs:
            quantize(graph)
    return open_engine(folder, graphs, threads=threads)


@pytest.fixture(scope="module")
def bart() -> Any:
    return make_model("bart")


@pytest.fixture(scope="module")
def engine(bart: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seq2Seq]:
    with build(bart, tmp_path_factory.mktemp("bart"), threads=2) as engine:
        yield engine


@pytest.mark.parametrize("in_place", [True, False], ids=["for the CPU", "for CUDA"])
@pytest.mark.parametrize("model_type", FAST)
def test_greedy_and_beams_give_the_tokens_of_transformers(
    model_type: str, in_place: bool, tmp_path: Path
) -> None:
    model = make_model(model_type)
    sources = random_sources(LENGTHS)
    with build(model, tmp_path, in_place=in_place) as engine:
        for num_beams in (1, 4):
            found = engine.generate(sources, config_of(num_beams=num_beams))
            assert_as_transformers(model, sources, found, num_beams=num_beams)


def assert_as_transformers(
    model: Any, sources: Sequence[Source], found: list[list[Hypothesis]], **settings: Any
) -> None:
    """Tokens are equal, and of beams the scores."""
    for source, ours in zip(sources, found, strict=True):
        theirs = generate(model, [source.input_ids], **settings)[0]
        assert [hypothesis.token_ids for hypothesis in ours] == [tokens for tokens, _ in theirs]
        if settings.get("num_beams", 1) > 1:
            scores = [score for _, score in theirs]
            assert [hypothesis.score for hypothesis in ours] == pytest.approx(scores, rel=1e-5)


BEAMS: dict[str, Any] = {"num_beams": 4}


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 12},
        {"bad_words": [[7], [8, 9]]},
        {"forced_bos_token_id": 11},
        {"forced_eos_token_id": EOS, "max_new_tokens": 5},
        {"eos": [EOS, 40, 41]},
        BEAMS | {"repetition_penalty": 1.3},
        BEAMS | {"no_repeat_ngram_size": 1},
        BEAMS | {"no_repeat_ngram_size": 2, "min_new_tokens": 6},
        BEAMS | {"bad_words": [[7], [8, 9], [10, 11, 12]]},
        BEAMS | {"forced_bos_token_id": 11, "forced_eos_token_id": EOS},
        BEAMS | {"length_penalty": 2.0, "early_stopping": True},
        BEAMS | {"length_penalty": 0.0, "early_stopping": "never"},
        BEAMS | {"length_penalty": 1.5, "early_stopping": "never"},
        BEAMS | {"length_penalty": -1.0},
        BEAMS | {"num_return_sequences": 4, "max_new_tokens": 8},
        BEAMS | {"eos": [EOS, 40, 41], "num_return_sequences": 2},
        {"num_beams": 2},
        {"num_beams": 7, "num_return_sequences": 7},
        {"max_new_tokens": 1},
        BEAMS | {"max_new_tokens": 1},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()),
)
def test_every_setting_means_what_it_means_in_transformers(
    settings: dict[str, Any], bart: Any, engine: Seq2Seq
) -> None:
    bad = settings.get("bad_words", [])
    eos = settings.get("eos", [EOS])
    given = {name: value for name, value in settings.items() if name not in {"bad_words", "eos"}}
    config = config_of(
        **given,
        eos_token_ids=tuple(eos),
        suppress_tokens=tuple(words[0] for words in bad if len(words) == 1),
        bad_words_ids=tuple(tuple(words) for words in bad if len(words) > 1),
    )
    sources = random_sources(LENGTHS, max_new_tokens=config.max_new_tokens)
    found = engine.generate(sources, config)
    theirs = given | ({"bad_words_ids": bad} if bad else {}) | {"eos_token_id": eos}
    theirs |= {"first": config.forced_bos_token_id}
    assert_as_transformers(bart, sources, found, **theirs)


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
@pytest.mark.parametrize("model_type", ["marian", "t5"])
def test_a_source_gives_the_same_bits_alone_and_among_others(
    model_type: str, int8: bool, num_beams: int, tmp_path: Path
) -> None:
    """Scores are compared, too: they show a difference long before a token does."""
    draw = np.random.default_rng(1)
    sources = random_sources(draw.integers(1, 40, 150).tolist())
    config = config_of(num_beams=num_beams)
    with build(make_model(model_type), tmp_path, int8=int8, threads=2) as engine:
        together = engine.generate(sources, config)
        order = draw.permutation(len(sources)).tolist()
        shuffled = engine.generate([sources[index] for index in order], config)
        assert shuffled == [together[index] for index in order]
        for index in range(0, len(sources), 10):
            assert engine.generate([sources[index]], config) == [together[index]]


@pytest.mark.parametrize("num_beams", [1, 4])
def test_each_source_has_a_limit_of_its_own(num_beams: int, engine: Seq2Seq) -> None:
    long = random_sources([9] * 12)
    short = [source._replace(max_new_tokens=1 + index) for index, source in enumerate(long)]
    config = config_of(num_beams=num_beams)
    found = engine.generate(short, config)
    assert found == [engine.generate([source], config)[0] for source in short]
    for source, (hypothesis,) in zip(short, found, strict=True):
        assert len(hypothesis.token_ids) + hypothesis.is_complete <= source.max_new_tokens


def test_a_language_is_forced_source_by_source(engine: Seq2Seq) -> None:
    """What is forced does not come out, nor count for the score."""
    (source,) = random_sources([9])
    several = [source._replace(forced_bos_token_id=token) for token in (30, 31)]
    for num_beams in (1, 4):
        config = config_of(num_beams=num_beams)
        found = engine.generate(several, config)
        apart = [
            engine.generate([each], config_of(num_beams=num_beams, forced_bos_token_id=token))[0]
            for each, token in ((source, 30), (source, 31))
        ]
        assert found == apart
        assert found[0] != found[1]


def test_samples_depend_on_the_seeds_alone(engine: Seq2Seq) -> None:
    sources = [source._replace(seed=index) for index, source in enumerate(random_sources([5] * 30))]
    config = config_of(do_sample=True, temperature=0.7, top_p=0.9, seed=1)
    together = engine.generate(sources, config)
    assert together == [engine.generate([source], config)[0] for source in sources]
    other = engine.generate(sources, config_of(do_sample=True, temperature=0.7, top_p=0.9, seed=2))
    assert together != other


def test_several_samples_of_a_source_come_best_first(engine: Seq2Seq) -> None:
    config = config_of(do_sample=True, top_k=0, num_return_sequences=5)
    for found in engine.generate(random_sources([5, 6]), config):
        assert len(found) == 5
        assert len({tuple(hypothesis.token_ids) for hypothesis in found}) > 1
        assert found == sorted(found, key=lambda hypothesis: -hypothesis.score)


@pytest.mark.parametrize(
    "narrow",
    [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 0.001}],
    ids=lambda narrow: next(iter(narrow)),
)
def test_sampling_from_one_token_is_greedy(narrow: dict[str, Any], engine: Seq2Seq) -> None:
    sources = random_sources(LENGTHS)
    greedy = engine.generate(sources, config_of())
    assert engine.generate(sources, config_of(do_sample=True, **narrow)) == greedy


def test_draws_follow_the_probabilities(engine: Seq2Seq) -> None:
    """The first token of many samples, against its probabilities: a chi-squared test."""
    (source,) = random_sources([9], max_new_tokens=1)
    config = config_of(do_sample=True, top_k=5, max_new_tokens=1, temperature=2.0)
    start = config.decoder_start_token_id
    assert start is not None
    logits = engine.logits([source.input_ids], [start])[0, 0].astype(np.float64)
    best = np.argsort(-logits)[:5]
    weights = np.exp((logits[best] - logits[best[0]]) / 2)
    expected = 2000 * weights / weights.sum()
    samples = engine.generate([source._replace(seed=seed) for seed in range(2000)], config)
    drawn = [hypothesis.token_ids[0] if hypothesis.token_ids else EOS for (hypothesis,) in samples]
    observed = np.array([drawn.count(token) for token in best.tolist()])
    assert observed.sum() == 2000
    assert ((observed - expected) ** 2 / expected).sum() < 23.5  # 4 degrees of freedom, p = 0.0001


@pytest.mark.parametrize("length_penalty", [-10.0, 10.0])
@pytest.mark.parametrize("num_beams", [1, 4])
def test_an_extreme_length_penalty_still_gives_outputs(
    num_beams: int, length_penalty: float, engine: Seq2Seq
) -> None:
    config = config_of(num_beams=num_beams, length_penalty=length_penalty)
    for (hypothesis,) in engine.generate(random_sources(LENGTHS), config):
        assert np.isfinite(hypothesis.score)
        assert 1 <= hypothesis.num_tokens <= 20


def test_closing_the_engine_stops_what_is_under_way(bart: Any, tmp_path: Path) -> None:
    with build(bart, tmp_path, threads=2) as engine:
        job = engine.submit(random_sources([9] * 3000), config_of(num_beams=4))
    assert job.num_left > 1500


def test_logits_are_those_of_transformers(bart: Any, engine: Seq2Seq) -> None:
    import torch

    rows = [source.input_ids for source in random_sources([7, 7])]
    tokens = [3, 20, 30, 40]
    ours = engine.logits(rows, tokens)
    with torch.inference_mode():
        theirs = bart(
            input_ids=torch.from_numpy(np.stack(rows)), decoder_input_ids=torch.tensor([tokens] * 2)
        ).logits.numpy()
    assert ours.shape == (2, 4, VOCAB_SIZE)
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("model_type", FAST)
def test_int8_is_close(model_type: str, tmp_path: Path) -> None:
    model = make_model(model_type)
    (tmp_path / "exact").mkdir()
    (source,) = random_sources([20])
    tokens = [3, *range(20, 32)]
    with build(model, tmp_path / "exact") as exact, build(model, tmp_path, int8=True) as reduced:
        logits = exact.logits([source.input_ids], tokens)
        difference = reduced.logits([source.input_ids], tokens) - logits
    assert np.sqrt((difference**2).mean()) < 0.15 * logits.std()


def test_shapes_that_the_operators_refuse_have_no_fast_graph() -> None:
    assert shape_of(make_model("bart", d_model=40).config) is None
    assert shape_of(make_model("bart", activation_function="gelu_fast").config) is None
    assert shape_of(make_model("t5", d_kv=12).config) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 0},
        {"num_return_sequences": 2},
        {"temperature": 0},
        {"temperature": float("inf")},
        {"length_penalty": float("nan")},
        {"top_p": 1.5},
        {"do_sample": True, "num_beams": 2},
        {"repetition_penalty": 0.5},
        {"max_new_tokens": 0},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        config_of(**wrong)


def test_too_little_memory_is_said(engine: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lmcli.engine.seq2seq.make_search", fail)
    with pytest.raises(UnavailableError, match="not enough memory"):
        engine.generate(random_sources([5]), config_of())


@contextmanager
def held(engine: Seq2Seq) -> Iterator[None]:
    """The only thread of an engine waits until all jobs of the block are there."""
    are_there = Event()
    engine._workers.submit(are_there.wait)
    yield
    are_there.set()


@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_run_goes_on_with_the_sources_of_later_jobs(
    num_beams: int, engine: Seq2Seq, bart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(num_beams=num_beams)
    sources = random_sources([9] * 60 + [5, 16, 17, 30, 9, 12] * 10)
    expected = engine.generate(sources, config)
    with build(bart, tmp_path, threads=1) as alone:
        make_cache = Mock(side_effect=alone._make_cache)
        monkeypatch.setattr(alone, "_make_cache", make_cache)
        with held(alone):
            jobs = [alone.submit(part, config) for part in (sources[:3], sources[3:70], sources[70:])]
        assert [found for job in jobs for found in job.results()] == expected
    assert make_cache.call_count == 2  # one for each of the two lengths that sources are padded to


def test_a_small_job_does_not_keep_others_from_a_large_one(
    bart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of()
    with build(bart, tmp_path, threads=1) as alone:
        step, widths = InPlaceCache.step, []

        def note(cache: InPlaceCache, *args: Any) -> Any:
            widths.append(cache.num_slots)
            return step(cache, *args)

        monkeypatch.setattr(InPlaceCache, "step", note)
        with held(alone):
            jobs = [alone.submit(random_sources([9] * number), config) for number in (300, 1)]
        assert [len(job.results()) for job in jobs] == [300, 1]
    assert np.median(widths) > 20


@pytest.mark.parametrize("error", [UnavailableError("on fire"), BaseException("a panic")], ids=str)
def test_a_job_that_is_over_stays_so(bart: Any, tmp_path: Path, error: BaseException) -> None:
    with build(bart, tmp_path, threads=1) as engine:
        job = engine.submit(random_sources([9]), config_of())
        (found,) = job.results()
        job.fail(error)
        assert job.results() == [found]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "_encode", Mock(side_effect=error))
            with pytest.raises(type(error)) as raised:
                engine.generate(random_sources([9]), config_of())
        assert raised.value is error


def test_an_error_reaches_all_whose_sources_are_in_the_run(
    bart: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, short, long = config_of(), random_sources([9] * 8), random_sources([30] * 8)

    fail = Mock(side_effect=UnavailableError("the machine is on fire"))
    with build(bart, tmp_path, threads=1) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(engine._decoder, "bind", fail)
            with held(engine):
                jobs = [engine.submit(part, config) for part in (short[:3], short[3:])]
            for job in jobs:
                with pytest.raises(UnavailableError, match="on fire"):
                    job.results()
        assert len(engine.generate(long + short, config)) == 16


def test_a_run_grows_with_the_jobs_that_come(bart: Any, tmp_path: Path) -> None:
    for num_beams in (1, 3):
        config = config_of(num_beams=num_beams, max_new_tokens=100)
        few, many = random_sources([9] * 2, max_new_tokens=100), random_sources([9] * 90, max_new_tokens=7)
        with build(bart, tmp_path, threads=2) as engine:
            first = engine.submit(few, config)
            found = first.results(), engine.submit(many, config).results()
            both = engine.submit(few, config), engine.submit(many, config)
            assert tuple(job.results() for job in both) == found
