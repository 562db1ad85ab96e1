import re
from pathlib import Path

import pytest

from lmcli.errors import UsageError
from lmcli.prompting.strategy import Direct, extract, read_strategy, strategy_names


def test_the_strategies_that_ship() -> None:
    assert strategy_names() == ["cot", "last-letter", "least-to-most", "plain"]
    assert all(read_strategy(name) for name in strategy_names())


def test_a_strategy_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[answer]\ntemplate = "Think: {question}"\nextract = "x(.)"\n')
    strategy = read_strategy(str(path))
    assert isinstance(strategy, Direct)
    assert strategy.template.fill({"question": "q"}) == "Think: q"
    assert strategy.extract == re.compile("x(.)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it needs `answer`, or both `decompose` and `solve`"),
        ('[answer]\ntemplate = "{question}"\n[solve]\ntemplate = "{subquestion}"', "it needs `answer`, or"),
        ('[answer]\ntemplate = "q"', "a template there must name {question}, and no other field"),
        ('[answer]\ntemplate = "{question}{text}"', "a template there must name {question}, and no"),
        ('[answer]\ntemplate = "{question}"\nextract = "("', "missing ), unterminated subpattern"),
        ('[answer]\ntemplat = "{question}"', "Object contains unknown field `templat`"),
        ("[answer]\ntemplate = 1", "Expected `str`, got `int`"),
        ("[answer", "Expected ']'"),
    ],
)
def test_what_is_no_strategy(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        read_strategy(str(path))
    assert error.value.message.startswith(f"{path}: not a strategy: {message}")


def test_strategies_that_are_not_there() -> None:
    with pytest.raises(UsageError) as error:
        read_strategy("magic")
    assert (error.value.message, error.value.hint) == (
        "there is no strategy 'magic'",
        "there are cot, last-letter, least-to-most, plain, or FILE.toml",
    )
    with pytest.raises(UsageError, match=r"none\.toml: not a strategy: No such file or directory"):
        read_strategy("none.toml")


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"\d+", "1, 22", "22"),
        (r"= *(\d*)", "= 1 =", ""),
        (r"(a)|b", "a b", None),
        (r"(a)|(b)", "a b", "b"),
        (r"x", "y", None),
    ],
)
def test_the_last_match_counts(pattern: str, text: str, found: str | None) -> None:
    assert extract(re.compile(pattern), text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("First 3.\nThe answer is 8.", "8"),
        ("The answer is: **8 apples**.\n\nAnything else?", "8 apples"),
        ('So the answer is "Paris".', "Paris"),
        ("The answer is 3. No, the final answer is 4.5.", "4.5"),
        ("I do not know", None),
    ],
)
def test_the_answer_of_a_chain_of_thought(text: str, found: str | None) -> None:
    strategy = read_strategy("cot")
    assert isinstance(strategy, Direct)
    assert strategy.extract is not None
    assert extract(strategy.extract, text) == found
