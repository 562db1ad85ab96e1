from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from lmcli.errors import UsageError
from lmcli.prompting.chat import ChatTemplate
from lmcli.prompting.dialogue import Frame
from lmcli.prompting.examples import Example, Shots, make_shots
from lmcli.prompting.strategy import Stepwise, read_strategy
from lmcli.prompting.template import Template
from lmcli.records.record import Record
from lmcli.tasks.counts import summary
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.prompt import Prompt
from lmcli.tasks.prompt_options import PromptOptions, check_takes_examples, plan
from lmcli.tasks.prompt_show import ShowPrompts
from tests import tiny_causal
from tests.prompting import toy
from tests.prompting.toy import Toy

Model = partial[Toy]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Makes toy models that differ in what they say and like."""
    return partial(Toy, toy.load_tokenizer(tmp_path))


def small(model: Model, folder: Path, context_length: int) -> Toy:
    return Toy(toy.load_tokenizer(folder, context_length=context_length), **model.keywords)


def make(toy_model: Toy, *, raw: bool = False, system: str | None = None, **settings: Any) -> Prompt:
    shots, show = settings.pop("shots", None), settings.pop("show", None)
    chat = None if raw else ChatTemplate(tiny_causal.CHATML, {}, where="toy")
    frame = Frame(toy_model.tokenizer, chat, before=(2,), system=system)
    manifest = toy.manifest(context_length=toy_model.context_length)
    return Prompt(manifest, toy_model, frame, PromptOptions(**settings), shots=shots, show=show)


def texts(*lines: str) -> list[Record]:
    return [Record(line, line=number) for number, line in enumerate(lines, start=1)]


def objects(*values: dict[str, Any]) -> list[Record]:
    return [
        Record(value.get("text", ""), raw=orjson.dumps(value), parse=orjson.loads, line=number)
        for number, value in enumerate(values, start=1)
    ]


def fields(task: Prompt, records: Sequence[Record]) -> list[Any]:
    """The new fields of each record, or its failure."""
    return [record.failure or dict(record.fields) for record in task(records)]


def counted(task: Prompt, records: Sequence[Record]) -> tuple[list[Any], Counter[str]]:
    """The same, and what all records count, added up."""
    done = list(task(records))
    added: Counter[str] = Counter()
    for record in done:
        added.update(record.counts)
    return [record.failure or dict(record.fields) for record in done], added


def answers(task: Prompt, *lines: str) -> list[Any]:
    return [found["answer"] for found in fields(task, texts(*lines))]


def few(*pairs: tuple[str, str], num_shots: int = 8) -> Shots:
    examples = [Example({"text": text}, answer) for text, answer in pairs]
    return make_shots(examples, "first", num_shots=num_shots)


def test_each_record_has_its_answer(model: Model) -> None:
    toy_model = model()
    task = make(toy_model, template=Template.parse("say {text}"))
    found, counts = counted(task, texts("one", "", "two", " ", "one"))
    assert [each["answer"] for each in found] == ["SAY ONE", "", "SAY TWO", "", "SAY ONE"]
    assert toy_model.asked == [2]  # equal texts are asked once
    assert task.remarks(counts) == []
    assert (task.adds, task.columns) == (
        ("answer", "answer_flags", "answer_dropped"),
        ("answer", "answer_flags"),
    )


def test_what_the_model_sees(model: Model) -> None:
    chatting, plain = model(), model()
    shots = few(("q", "a"), ("r", "b"))
    ask = Template.parse("Q: {text}\nA:")
    assert answers(make(chatting, template=ask, shots=shots, system="S"), "x", "q") == [
        "Q: X\nA:",
        "Q: Q\nA:",
    ]
    assert chatting.seen == [
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\nQ: q\nA:<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
        "<|im_start|>user\nQ: r\nA:<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nQ: x\nA:<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\nQ: r\nA:<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nQ: q\nA:<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert len(answers(make(plain, template=ask, shots=shots, system="S", raw=True), "x")) == 1
    assert plain.seen == ["<s>S\n\nQ: q\nA: a\n\nQ: r\nA: b\n\nQ: x\nA:"]


def test_fields_of_objects(model: Model) -> None:
    task = make(model(), template=Template.parse("{a.b} {n}{text}"))
    assert fields(task, objects({"a": {"b": "x"}, "n": 1.5, "text": "t"}))[0]["answer"] == "X 1.5T"
    [failure] = fields(task, objects({"text": "t", "n": 1}))
    assert (failure.code, failure.message) == ("missing_field", "no field 'a.b'; there are 'text', 'n'")


def test_failed_records_pass(model: Model) -> None:
    records = [Record("a").failed("before", "reason"), Record("b")]
    failed, good = make(model())(records)
    assert (failed, good.fields["answer"]) == (records[0], "B")


def test_generation_is_configured(model: Model) -> None:
    toy_model = model()
    generation = GenerationOptions(sample=True, temperature=0.5, seed=3, nbest=2, scores=True)
    task = make(
        toy_model, generation=generation, min_p=0.1, frequency_penalty=0.5, stop=("?",), as_field="out"
    )
    [found] = fields(task, texts("a b? c"))
    assert found["out"] == found["out_nbest"][0]["text"]
    assert [item["score"] for item in found["out_nbest"]] == [-0.5, -1.5]
    config = toy_model.config
    assert config is not None
    assert (config.min_p, config.frequency_penalty, config.stop_strings) == (0.1, 0.5, ("?",))
    assert (config.temperature, config.seed, config.max_new_tokens) == (0.5, 3, 256)
    assert task.columns == ("out", "out_score", "out_nbest", "out_flags")
    [record] = task(texts("a"))
    assert task.lines(record) == ["1\t-0.5000\tA", "1\t-1.5000\tA"]


def test_an_output_ends_before_a_stop_string(model: Model) -> None:
    task = make(model(), stop=("END", "\n"))
    assert fields(task, texts("one end two", "x\ny", "z")) == [{"answer": each} for each in ("ONE", "X", "Z")]


def test_outputs_that_look_wrong_are_flagged(model: Model) -> None:
    task = make(
        model(speech=lambda question: "no no no no" if question == "a" else question),
        generation=GenerationOptions(max_new_tokens=8),
    )
    (loop, cut, fine), counts = counted(task, texts("a", "abcdefghij", "b"))
    assert loop == {"answer": "no no no no", "answer_flags": ["repetition", "length_limit"]}
    assert cut == {"answer": "abcdefgh", "answer_flags": ["length_limit"]}
    assert fine == {"answer": "b"}
    assert task.remarks(counts) == [
        "of 3 answers: 1 repetition, 2 length_limit (see answer_flags in JSONL output)"
    ]
    numbers = summary("answer", counts)
    assert (numbers["truncated"], numbers["degenerate"]) == (2, 1)
    assert numbers["flags"] == {"repetition": 1, "length_limit": 2}


def test_tokens_are_counted(model: Model) -> None:
    """Bytes, and one for the start; equal texts are asked once and count twice."""
    task = make(model(), raw=True)
    done = list(task(texts("abc", "", "de", "abc")))
    blank = done.pop(1)
    assert dict(blank.counts) == {}
    assert [dict(record.counts) for record in done] == [
        {"answer.results": 1, "answer.tokens": 1 + size, "answer.new_tokens": size} for size in (3, 2, 3)
    ]


def test_the_tokens_of_all_steps_and_samples_count(model: Model, tmp_path: Path) -> None:
    sampling = GenerationOptions(sample=True)
    [sampled] = make(model(speech=lambda _: "=1"), raw=True, samples=3, generation=sampling)(texts("ab"))
    assert dict(sampled.counts) == {"answer.results": 1, "answer.tokens": 3, "answer.new_tokens": 3 * 2}
    toy_model = model(speech=work_out)
    [worked_out] = make(toy_model, strategy=stepwise(tmp_path))(texts("ab and c"))
    outputs = [step["output"] for step in worked_out.fields["answer_trace"]]
    assert dict(worked_out.counts) == {
        "answer.results": 1,
        "answer.tokens": num_tokens(toy_model.seen),
        "answer.new_tokens": num_tokens(outputs),
    }


def num_tokens(texts: Sequence[str]) -> int:
    return sum(len(toy.tokenizer().encode(text, add_special_tokens=False).ids) for text in texts)


def test_loops_are_decoded_again(model: Model) -> None:
    toy_model = model(speech=lambda _: "no no no no")
    task = make(toy_model, generation=GenerationOptions(retry_degenerate=True))
    assert fields(task, texts("a"))[0]["answer_flags"] == ["repetition"]
    assert toy_model.config is not None
    assert (toy_model.asked, toy_model.config.num_beams) == ([1, 1], 4)


def test_a_prompt_without_room_fails_or_loses_examples(model: Model, tmp_path: Path) -> None:
    shots = few(("0123456789" * 3, "a"), ("q", "b"))
    limit = GenerationOptions(max_new_tokens=16)
    dropping = make(small(model, tmp_path, 100), shots=shots, generation=limit)
    found, counts = counted(dropping, texts("x", "y" * 90))
    assert found == [{"answer": "X", "answer_dropped": 1}, dropping_failure(task=dropping)]
    assert dropping.remarks(counts) == ["1 prompt lost examples, to fit (see answer_dropped in JSONL output)"]
    numbers = summary("answer", counts)
    assert (numbers["results"], numbers["dropped"], numbers["truncated"]) == (1, 1, 1)
    failing = make(small(model, tmp_path, 100), shots=shots, generation=limit, fit="fail")
    [failure] = fields(failing, texts("x"))
    assert failure.code == "too_long"


def dropping_failure(task: Prompt) -> Any:
    """What is said of a question that is too long by itself."""
    [failure] = fields(task, texts("y" * 90))
    assert re.fullmatch(r"the prompt has 1\d\d tokens, and 84 fit before the answer", failure.message)
    return failure


def test_without_a_limit_an_answer_gets_the_room_there_is(model: Model, tmp_path: Path) -> None:
    task = make(small(model, tmp_path, 48), raw=True)
    [found] = fields(task, texts("abcdefghij" * 4))
    assert (len(found["answer"]), found["answer_flags"]) == (7, ["length_limit"])


def liking(**weights: float) -> Any:
    """Likes words by themselves, and more where a prompt has them."""

    def taste(prompt: str, choice: str) -> float:
        word = choice.strip()
        return weights[word] + (2.0 if word in prompt.partition("user\n")[2] else 0.0)

    return taste


def test_choices_are_scored(model: Model) -> None:
    task = make(model(taste=liking(good=-2, bad=-1)), choices=("good", "bad"))
    good, bad, empty = fields(task, texts("good day", "day", ""))
    assert good == {
        "answer": "good",
        "answer_score": 0.731059,
        "answer_scores": {"good": 0.731059, "bad": 0.268941},
    }
    assert bad["answer"] == "bad"
    assert empty == {"answer": "", "answer_score": None}
    assert task.columns == ("answer", "answer_score", "answer_flags")
    records = list(task(texts("good\tday", "")))
    assert [task.lines(record) for record in records] == [["good\t0.7311\tgood\tday"], [""]]


def test_choices_behind_plain_text_begin_with_a_space(model: Model) -> None:
    heard: list[tuple[str, str]] = []

    def taste(prompt: str, choice: str) -> float:
        heard.append((prompt, choice))
        return -1.0

    make_task = partial(make, model(taste=taste), raw=True, choices=("good", "bad"))
    assert len(answers(make_task(), "x")) == 1
    assert heard == [("<s>x", " good"), ("<s>x", " bad")]
    heard.clear()
    # The space of the template becomes one token with the letter behind it: the choice begins before it.
    assert len(answers(make_task(template=Template.parse("{text} ")), "x")) == 1
    assert heard == [("<s>x", " good"), ("<s>x", " bad")]


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, "bad"),
        ({"normalize": "mean"}, "longer"),
        ({"normalize": "pmi"}, "longer"),
        ({"calibrate": True}, "longer"),
    ],
    ids=str,
)
def test_ways_to_compare_choices(model: Model, settings: dict[str, Any], answer: str) -> None:
    """The text speaks for the choice that is less likely anyway."""
    toy_model = model(taste=liking(bad=-1.0, longer=-3.5))
    task = make(toy_model, choices=("bad", "longer"), **settings)
    assert answers(task, "the longer", "a longer") == [answer, answer]


def test_what_says_nothing_is_asked_once(model: Model) -> None:
    toy_model = model()
    task = make(toy_model, choices=("a", "b"), calibrate=True, shots=few(("q", "a")))
    assert len(answers(task, "x", "y", "z")) == 3
    assert toy_model.asked == [3, 3]
    last = [toy.asked(prompt) for prompt in toy_model.seen[6:]]
    assert last == ["N/A", "N/A", "[MASK]", "[MASK]", "", ""]


def test_choices_that_do_not_fit(model: Model, tmp_path: Path) -> None:
    task = make(small(model, tmp_path, 48), choices=("a", "b"))
    [failure] = fields(task, texts("x" * 60))
    assert failure.code == "too_long"


def test_the_answer_is_found_in_the_output(model: Model) -> None:
    task = make(model(speech=lambda question: f"1? {question}"), extract=re.compile(r"=(\d+)"))
    (found, missing), counts = counted(task, texts("=1, no =22", "x"))
    assert found == {"answer": "22", "answer_trace": [{"output": "1? =1, no =22"}]}
    assert missing == {
        "answer": "",
        "answer_flags": ["unanswered"],
        "answer_trace": [{"output": "1? x"}],
    }
    assert task.remarks(counts) == ["of 2 answers: 1 unanswered (see answer_flags in JSONL output)"]


def test_chain_of_thought(model: Model) -> None:
    toy_model = model(speech=lambda _: "2 and 2 are 4.\nThe answer is 4.")
    task = make(toy_model, strategy=read_strategy("cot"))
    assert answers(task, "2 + 2?") == ["4"]
    assert toy.asked(toy_model.seen[0]).startswith("2 + 2?\n\nLet's think step by step")


def test_the_most_frequent_of_several_samples(model: Model) -> None:
    def sampled(seed: int) -> list[Any]:
        toy_model = model(speech=lambda question: f"so ={question}?")
        task = make(
            toy_model,
            samples=9,
            extract=re.compile("=(.*)"),
            generation=GenerationOptions(sample=True, seed=seed),
        )
        found = fields(task, texts("a", "b"))
        assert toy_model.config is not None
        assert (toy_model.config.num_return_sequences, toy_model.config.temperature) == (9, 0.7)
        return found

    first, second = sampled(1)
    votes = first["answer_votes"]
    assert (sum(votes.values()), first["answer"]) == (9, max(votes, key=votes.__getitem__))
    assert list(votes.values()) == sorted(votes.values(), reverse=True)
    assert len(first["answer_trace"]) == 9
    assert sampled(1) == [first, second] != sampled(2)


def test_flags_are_those_of_the_answer_that_won(model: Model) -> None:
    said = iter(["x=a", "no no no no=b", "y=a"] * 2)
    task = make(
        model(speech=lambda _: next(said)),
        samples=3,
        extract=re.compile("=(.*)"),
        generation=GenerationOptions(sample=True),
    )
    [found] = fields(task, texts("q"))
    assert found["answer_votes"] == {"a": 2, "b": 1}
    assert "answer_flags" not in found


def test_samples_without_an_answer(model: Model) -> None:
    task = make(model(), samples=2, extract=re.compile("never"), generation=GenerationOptions(sample=True))
    [found] = fields(task, texts("a"))
    assert (found["answer"], found["answer_flags"], found["answer_votes"]) == ("", ["unanswered"], {})


STEPWISE = """
[decompose]
template = "split {question}"
split = '"([^"]+)"'

[[decompose.examples]]
question = "x and y"
answer = '"x" "y"'

[solve]
first = "{question}: {subquestion}"
template = "then {subquestion}"
final = "all"
extract = "=(.*)"

[[solve.examples]]
question = "x and y"
steps = [["x", "=1"], ["all", "=2"]]
"""


def stepwise(folder: Path) -> Stepwise:
    (folder / "steps.toml").write_text(STEPWISE)
    strategy = read_strategy(str(folder / "steps.toml"))
    assert isinstance(strategy, Stepwise)
    return strategy


def work_out(question: str) -> str:
    """Splits at `and`; the answer to a part is its length."""
    if question.startswith("split "):
        parts = question.removeprefix("split ").split(" and ")
        return " ".join(f'"{part}"' for part in parts) if len(parts) > 1 else "nothing"
    return f"={len(question)}" if question != "then stop" else "I give up"


def test_parts_are_answered_one_after_another(model: Model, tmp_path: Path) -> None:
    toy_model = model(speech=work_out)
    task = make(toy_model, strategy=stepwise(tmp_path))
    found, simple = fields(task, texts("ab and c and ab", "d"))
    assert found == {
        "answer": "8",
        "answer_trace": [
            {"output": '"ab" "c" "ab"'},
            {"subquestion": "ab", "output": "=19"},
            {"subquestion": "c", "output": "=6"},
            {"subquestion": "all", "output": "=8"},
        ],
    }
    assert simple["answer_trace"] == [{"output": "nothing"}, {"subquestion": "all", "output": "=6"}]
    assert toy_model.asked == [2, 2, 1, 1]  # step by step, all texts together
    turns = [
        text for turn in toy_model.seen[-1].split(tiny_causal.BEGIN) if (text := turn.partition("\n")[2])
    ]
    said = ["x and y: x", "=1", "then all", "=2", "ab and c and ab: ab", "=19", "then c", "=6", "then all"]
    assert turns == [f"{text}{tiny_causal.END}\n" for text in said]


def test_the_final_part_is_the_last_wherever_it_is_named(model: Model, tmp_path: Path) -> None:
    task = make(model(speech=work_out), strategy=stepwise(tmp_path))
    [found] = fields(task, texts("All and c"))
    assert [step.get("subquestion") for step in found["answer_trace"]] == [None, "c", "all"]


def test_a_part_without_an_answer(model: Model, tmp_path: Path) -> None:
    task = make(model(speech=lambda question: question[:1]), strategy=stepwise(tmp_path))
    [found] = fields(task, texts("a"))
    assert (found["answer"], found["answer_flags"]) == ("", ["unanswered"])


def test_a_question_whose_parts_do_not_fit_fails_alone(tmp_path: Path) -> None:
    toy_model = small(partial(Toy, speech=work_out), tmp_path, 160)
    task = make(toy_model, strategy=stepwise(tmp_path), generation=GenerationOptions(max_new_tokens=60))
    failure, good = fields(task, texts("abcdefghij and " * 4, "d"))
    assert (failure.code, good["answer"]) == ("too_long", "6")


@pytest.mark.parametrize("name", ["last-letter", "least-to-most"])
def test_shipped_strategies_work(tmp_path: Path, name: str) -> None:
    def speech(_: str) -> str:
        return '1. "a"\nSo "x" outputs "k". The answer is k.'

    toy_model = Toy(toy.load_tokenizer(tmp_path, context_length=8192), speech)
    assert answers(make(toy_model, strategy=read_strategy(name)), "a") == ["k"]


def test_answers_are_compared_with_right_ones(model: Model) -> None:
    task = make(model(), gold="right", template=Template.parse("{text}"))
    records = objects(
        {"text": "a", "right": " a"}, {"text": "b", "right": "c"}, {"text": "x"}, {"text": "", "right": "d"}
    )
    found, counts = counted(task, records)
    assert [each["answer"] for each in (found[0], found[1], found[3])] == ["A", "B", ""]
    assert (found[2].code, found[2].message) == ("missing_field", "no field 'right'; there are 'text'")
    assert task.remarks(counts) == [
        "accuracy 0.5000 (1 of 2), 95 % interval 0.0945 to 0.9055; always 'a' would be 0.5000"
    ]
    numbers = summary("answer", counts)
    assert numbers.pop("gold")["correct"] == 1
    assert (numbers.pop("tokens") > 2, numbers) == (
        True,
        {
            "results": 2,
            "cached": 0,
            "new_tokens": 2,
            "truncated": 0,
            "degenerate": 0,
            "dropped": 0,
            "flags": {},
        },
    )


def test_without_a_right_answer_nothing_is_compared(model: Model) -> None:
    task = make(model(), gold="right", as_field="said", extract=re.compile("never"))
    found, counts = counted(task, objects({"text": "a", "right": ""}, {"text": "b", "right": None}))
    assert [each["said"] for each in found] == ["", ""]
    assert task.remarks(counts)[-1] == "said: accuracy: there is nothing to compare"


def test_nothing_compared_is_said_too(model: Model) -> None:
    task = make(model(), gold="right")
    assert task.remarks({}) == ["accuracy: there is nothing to compare"]


def test_choices_count_what_is_read(model: Model) -> None:
    [record] = make(model(), raw=True, choices=("good", "bad"))(texts("abc"))
    assert dict(record.counts) == {"answer.results": 1, "answer.tokens": 4}


def test_a_single_answer_is_shown_while_it_is_written(model: Model) -> None:
    shown: list[str] = []
    task = make(model(speech=lambda _: "  naïve 🙂 a.STOP more"), show=shown.append, stop=("STOP",))
    [record] = task(texts("x"))
    assert "".join(shown) == "naïve 🙂 a."
    assert len(shown) > 5
    assert task.lines(record) == [""]
    assert task.lines(record) == ["naïve 🙂 a."]  # once it has been shown it is a record like others


def test_what_was_held_back_is_shown_in_the_end(model: Model) -> None:
    shown: list[str] = []
    task = make(model(speech=lambda _: "a ST"), show=shown.append, stop=("STOP",))
    [record] = task(texts("x"))
    assert ("".join(shown), task.lines(record)) == ("a", [" ST"])


@pytest.mark.parametrize(
    "settings",
    [
        {"choices": ("a", "b")},
        {"extract": re.compile("A")},
        {"samples": 2, "generation": GenerationOptions(sample=True)},
        {"generation": GenerationOptions(scores=True)},
        {"generation": GenerationOptions(num_beams=2)},
        {"generation": GenerationOptions(retry_degenerate=True)},
    ],
    ids=str,
)
def test_what_is_not_the_output_itself_is_shown_as_a_whole(model: Model, settings: dict[str, Any]) -> None:
    shown: list[str] = []
    task = make(model(), show=shown.append, **settings)
    assert (len(list(task(texts("a")))), shown) == (1, [])


def test_answers_of_several_records_are_shown_as_a_whole(model: Model) -> None:
    shown: list[str] = []
    task = make(model(), show=shown.append)
    assert (answers(task, "a", ""), shown) == (["A", ""], [])


def test_prompts_are_shown_without_a_model(tmp_path: Path) -> None:
    tokenizer = toy.load_tokenizer(tmp_path, context_length=64)
    options = PromptOptions(template=Template.parse("say {text}"))
    task = ShowPrompts(
        toy.manifest(context_length=64),
        tokenizer,
        Frame(tokenizer, None, before=(2,)),
        options,
        num_records=2,
    )
    first, second = task([*texts("<s>", "y" * 90), Record("never")])
    assert dict(first.fields) == {"answer_prompt": "say <s>", "answer_tokens": 8}
    assert task.lines(first) == ["=== -:1, 8 tokens", "say <s>"]
    assert second.failure is not None
    assert (second.failure.code, task.remarks({})) == ("too_long", [])


def test_shown_prompts_are_those_of_the_run(model: Model, tmp_path: Path) -> None:
    toy_model = model()
    shots = few(("q", "a"))
    chat = ChatTemplate(tiny_causal.CHATML, {}, where="toy")
    for settings in ({"choices": ("a", "b")}, {}, {"strategy": stepwise(tmp_path)}):
        toy_model.seen.clear()
        options = PromptOptions(**settings)
        own = None if "strategy" in settings else shots
        frame = Frame(toy_model.tokenizer, chat)
        manifest = toy.manifest()
        shown = ShowPrompts(manifest, toy_model.tokenizer, frame, options, shots=own, num_records=1)
        [record] = shown(texts("x"))
        assert len(list(Prompt(manifest, toy_model, frame, options, shots=own)(texts("x")))) == 1
        assert record.fields["answer_prompt"] == toy_model.seen[0]


def test_a_chat_template_that_refuses_fails_its_record(model: Model) -> None:
    toy_model = model()
    source = (
        "{% if 'no' in messages[0].content %}{{ raise_exception('No.') }}{% endif %}{{ messages[0].content }}"
    )
    frame = Frame(toy_model.tokenizer, ChatTemplate(source, {}, where="toy"))
    refused, good = fields(Prompt(toy.manifest(), toy_model, frame, PromptOptions()), texts("no", "a"))
    assert (refused.code, refused.message) == ("chat_template", "the chat template refuses it: No.")
    assert good["answer"] == "A"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"as_field": "text"}, "--as 'text': records have or need that field"),
        ({"template": Template.parse("Hello")}, "the template names no field"),
        ({"stop": ("a", "")}, "--stop is empty"),
        ({"choices": ("a",)}, "--choices needs two answers or more"),
        ({"normalize": "sum"}, "--normalize is for --choices"),
        ({"calibrate": True}, "--calibrate is for --choices"),
        ({"min_p": 0.1}, "--min-p is for sampling"),
        ({"choices": ("a", "b"), "samples": 2}, "--choices and --samples exclude each other"),
        ({"choices": ("a", "b"), "extract": re.compile("")}, "--choices and --extract exclude each other"),
        ({"choices": ("a", "b"), "stop": ("x",)}, "--choices and --stop exclude each other"),
        (
            {"choices": ("a", "b"), "frequency_penalty": 1.0},
            "--choices and --frequency-penalty exclude each other",
        ),
        (
            {"choices": ("a", "b"), "strategy": read_strategy("cot")},
            "--choices and --strategy exclude each other",
        ),
        (
            {"choices": ("a", "b"), "generation": GenerationOptions(max_new_tokens=3)},
            "--choices and --max-new-tokens exclude each other",
        ),
        (
            {"choices": ("a", "b"), "calibrate": True, "normalize": "pmi"},
            "--calibrate and --normalize pmi exclude each other",
        ),
        (
            {"samples": 2, "generation": GenerationOptions(sample=True, nbest=2)},
            "--samples and --nbest exclude each other",
        ),
        ({"strategy": read_strategy("last-letter"), "samples": 2}, "--samples is for strategies of one step"),
        (
            {"strategy": read_strategy("last-letter"), "generation": GenerationOptions(nbest=2)},
            "--nbest is for strategies of one step",
        ),
        (
            {"strategy": read_strategy("last-letter"), "template": Template.parse("{subquestion}")},
            "the strategy needs {subquestion} itself",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        PromptOptions(**settings)
    assert (error.value.message, bool(error.value.hint)) == (message, True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"generation": GenerationOptions(max_new_tokens=512)},
            "--max-new-tokens 512: the model's context has 512 tokens",
        ),
        ({"generation": GenerationOptions(sample=True, top_p=0.0)}, "--top-p is 0.0"),
        ({"generation": GenerationOptions(sample=True), "min_p": 1.0}, "--min-p is 1.0"),
        ({"frequency_penalty": -1.0}, "--frequency-penalty is -1.0"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        plan(toy.manifest(), PromptOptions(**settings))
    assert error.value.message == message


def test_strategies_with_examples_of_their_own_take_no_others() -> None:
    with pytest.raises(UsageError, match="--examples is for strategies of one step"):
        check_takes_examples(PromptOptions(strategy=read_strategy("least-to-most")))


def test_the_default_length_is_limited_by_the_context() -> None:
    assert plan(toy.manifest(), PromptOptions()).max_new_tokens == 256
    assert plan(toy.manifest(context_length=100), PromptOptions()).max_new_tokens == 99
    sampled = PromptOptions(samples=3, generation=GenerationOptions(sample=True, temperature=1.5))
    assert plan(toy.manifest(), sampled).temperature == 1.5
