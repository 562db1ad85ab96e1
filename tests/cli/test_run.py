"""`lmcli run`: jobs in TOML files do what `lmcli pipe` does, and say where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Ended
from tests.cli.conftest import Cli

LINES = b"Marie Curie left\n\nParis is good\n\xff\n"
OBJECTS = '{"text":"Marie","body":"Paris","id":1}\n{"nope":1}\n\n{"text":"York","body":"x","id":2}\n'
PIPELINE = (
    "sentiment model=test:echo as=mood all-scores | translate model=test:grow?times=2"
    " | filter mood.score > 0.1 | ner model=test:echo | select text, translation, n=entities"
)
STAGES = """
[[stages]]
task = "sentiment"
model = "test:echo"
as = "mood"
all-scores = true

[[stages]]
task = "translate"
model = "test:grow?times=2"

[[stages]]
task = "filter"
where = "mood.score > 0.1"

[[stages]]
task = "ner"
model = "test:echo"

[[stages]]
task = "select"
fields = ["text", "translation", "n=entities"]
"""
ECHO = 'pipeline = "ner model=test:echo"\n'


@pytest.fixture(autouse=True)
def jobs(work: Path) -> Path:
    """A folder for a job and its files."""
    path = work / "jobs"
    path.mkdir()
    (path / "in.txt").write_bytes(LINES)
    (path / "in.jsonl").write_text(OBJECTS)
    return path


def job(jobs: Path, text: str) -> Path:
    path = jobs / "job.toml"
    path.write_text(text)
    return path.relative_to(jobs.parent)


# The same as `lmcli pipe`.


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl"])
@pytest.mark.parametrize("output_format", ["auto", "jsonl", "csv", "text"])
def test_both_forms_of_a_job_do_what_pipe_does(cli: Cli, jobs: Path, name: str, output_format: str) -> None:
    expected = cli("pipe", PIPELINE, jobs / name, "-O", output_format)
    assert expected.code == 1
    options = f'inputs = ["{name}"]\noutput-format = "{output_format}"\n'
    for text in (f"{options}pipeline = '{PIPELINE}'\n", options + STAGES):
        assert cli("run", job(jobs, text)) == expected


def test_a_pipeline_may_have_several_lines(cli: Cli, jobs: Path) -> None:
    pipeline = '"""\nsentiment model=test:echo\n| filter text != "x"\n| ner model=test:echo\n"""'
    ended = cli("run", job(jobs, f"pipeline = {pipeline}\n"), stdin=b"Paris\nx\n")
    assert ended == Ended(0, "[Paris](ORG)\n", "")


def test_without_inputs_standard_input_is_read(cli: Cli, jobs: Path) -> None:
    expected = Ended(0, "[Paris](ORG)\n", "")
    assert cli("run", job(jobs, ECHO), stdin=b"Paris\n") == expected
    assert cli("run", job(jobs, f'inputs = ["-"]\n{ECHO}'), stdin=b"Paris\n") == expected


@pytest.mark.parametrize("inputs", ['"in.txt"', '["in.txt"]'])
def test_a_single_input_needs_no_list(cli: Cli, jobs: Path, inputs: str) -> None:
    ended = cli("run", job(jobs, f"inputs = {inputs}\n{ECHO}"))
    assert ended.out == "[Marie](PER) [Curie](LOC) left\n\n[Paris](ORG) is good\n\n"


def test_values_of_stages_are_those_of_toml(cli: Cli, jobs: Path) -> None:
    text = '[[stages]]\ntask = "sentiment"\nmodel = "test:echo"\nthreshold = 1\nall_scores = false\n'
    assert cli("run", job(jobs, text), stdin=b"Marie\n").out == "NEGATIVE\t0.6385\tMarie\n"


def test_a_stage_of_a_table_reads_the_field_that_it_names(cli: Cli, jobs: Path) -> None:
    stages = '[[stages]]\ntask = "ner"\nmodel = "test:echo"\nfield = "body"\n'
    ended = cli("run", job(jobs, f'inputs = "in.jsonl"\noutput-format = "text"\n{stages}'))
    assert ended.out.splitlines()[0] == "[Paris](ORG)"


# Who wins.


@pytest.fixture
def formats(jobs: Path, work: Path) -> Path:
    """A job that writes JSON Lines, in a project that writes CSV."""
    (work / "lmcli.toml").write_text('output-format = "csv"\nby = "para"\n')
    return job(jobs, f'output-format = "jsonl"\n{ECHO}')


def test_a_job_wins_over_the_file_of_the_project(cli: Cli, formats: Path) -> None:
    found = json.loads(cli("run", formats, stdin=b"a\nb\n").out)
    assert found == {"text": "a\nb", "entities": []}  # `by` is what the project says


def test_a_flag_wins_over_a_job(cli: Cli, formats: Path) -> None:
    assert cli("run", formats, "-O", "text", "--by", "line", stdin=b"a\nb\n").out == "a\nb\n"


@pytest.mark.parametrize("name", ["LMCLI_OUTPUT_FORMAT", "LMCLI_RUN_OUTPUT_FORMAT"])
def test_a_variable_wins_over_a_job(
    cli: Cli, formats: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tsv")
    assert cli("run", formats, stdin=b"a\n").out == "text\tentities\na\t[]\n"
    assert cli("run", formats, "-O", "text", stdin=b"a\n").out == "a\n"


def test_inputs_on_the_command_line_win(cli: Cli, jobs: Path, work: Path) -> None:
    (work / "other.txt").write_text("York\n")
    assert cli("run", job(jobs, f'inputs = "in.txt"\n{ECHO}'), "other.txt").out == "[York](LOC)\n"


def test_stages_are_configured_by_their_commands(
    cli: Cli, jobs: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "lmcli.toml").write_text('[ner]\nmodel = "test:echo"\nas = "names"\nfield = "body"\n')
    path = job(jobs, 'inputs = "in.jsonl"\n[[stages]]\ntask = "ner"\n')
    first = json.loads(cli("run", path).out.splitlines()[0])
    assert [each["text"] for each in first["names"]] == ["Marie"]
    monkeypatch.setenv("LMCLI_NER_AS", "found")
    assert "found" in json.loads(cli("run", path).out.splitlines()[0])
    path = job(jobs, 'inputs = "in.jsonl"\n[[stages]]\ntask = "ner"\nas = "typed"\n')
    assert "typed" in json.loads(cli("run", path).out.splitlines()[0])


def test_options_of_a_job_are_those_of_its_run_and_of_no_stage(cli: Cli, jobs: Path) -> None:
    text = 'field = "body"\noutput-format = "text"\ninputs = "in.jsonl"\n'
    pipeline = 'pipeline = "translate model=test:grow?times=2 | ner model=test:echo"\n'
    ended = cli("run", job(jobs, text + pipeline))
    assert ended.out.splitlines()[0] == "[Paris](ORG) [Paris](ORG)"


def test_there_may_be_no_configuration(cli: Cli, formats: Path) -> None:
    assert json.loads(cli("--no-config", "run", formats, stdin=b"a\n").out)["text"] == "a"


# Files beside the job.


def test_paths_are_relative_to_the_job(cli: Cli, jobs: Path, work: Path) -> None:
    (jobs / "list").write_text("jobs/in.jsonl\n")
    text = (
        'inputs = ["in.txt"]\noutput = "out.jsonl"\nerrors = "errors.jsonl"\nsummary = "summary.json"\n'
        'output-format = "jsonl"\n'
    )
    ended = cli("run", job(jobs, text + ECHO))
    assert (ended.code, ended.out) == (1, "")
    assert sorted(path.name for path in work.iterdir()) == ["jobs"]
    assert len((jobs / "out.jsonl").read_text().splitlines()) == 4
    [error] = (json.loads(line) for line in (jobs / "errors.jsonl").read_text().splitlines())
    assert (error["source"], error["line"]) == (str(jobs / "in.txt"), 4)
    summary = json.loads((jobs / "summary.json").read_text())
    assert (summary["output"], summary["records"]) == (str(jobs / "out.jsonl"), 4)


def test_a_list_of_inputs_is_beside_the_job(cli: Cli, jobs: Path) -> None:
    (jobs / "list").write_text("jobs/in.txt\n")
    ended = cli("run", job(jobs, f'files-from = "list"\n{ECHO}'))
    assert ended.out == "[Marie](PER) [Curie](LOC) left\n\n[Paris](ORG) is good\n\n"


def test_paths_from_the_root_stay(cli: Cli, jobs: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("Paris\n")
    text = f'inputs = "{tmp_path / "in.txt"}"\noutput = "{tmp_path / "out.txt"}"\n'
    assert cli("run", job(jobs, text + ECHO)) == Ended(0, "", "")
    assert (tmp_path / "out.txt").read_text() == "[Paris](ORG)\n"


def test_paths_on_the_command_line_are_relative_to_where_one_is(cli: Cli, jobs: Path, work: Path) -> None:
    path = job(jobs, f'inputs = "in.txt"\noutput = "out.txt"\n{ECHO}')
    assert cli("run", path, "-o", "out.txt").code == 1
    assert (work / "out.txt").exists()
    assert not (jobs / "out.txt").exists()


def test_a_job_writes_to_standard_output(cli: Cli, jobs: Path) -> None:
    assert cli("run", job(jobs, f'output = "-"\n{ECHO}'), stdin=b"Paris\n").out == "[Paris](ORG)\n"


def test_a_job_does_not_write_over_its_inputs(cli: Cli, jobs: Path) -> None:
    ended = cli("run", job(jobs, f'inputs = "in.txt"\noutput = "in.txt"\n{ECHO}'))
    assert ended.code != 0
    assert (jobs / "in.txt").read_bytes() == LINES


def test_a_job_is_continued(cli: Cli, jobs: Path) -> None:
    text = (
        'inputs = "in.jsonl"\noutput = "out.jsonl"\nresume = true\n'
        f"pipeline = 'ner model=test:fail?every=4&unless={jobs / 'fixed'}'\n"
    )
    assert cli("run", job(jobs, text)).code == 1
    assert "rehearsal" in (jobs / "out.jsonl").read_text()
    (jobs / "fixed").touch()
    assert cli("run", job(jobs, text)).code == 1  # a record has no text
    assert "rehearsal" not in (jobs / "out.jsonl").read_text()
    assert len((jobs / "out.jsonl").read_text().splitlines()) == 4


# What is wrong.


TASKS = "tasks are sentiment, ner, translate, summarize, prompt, embed, filter, select"
STEPS = "stages are embed, filter, ner, prompt, select, sentiment, summarize, translate"
EXAMPLE = 'pipeline = "translate to=fr | sentiment"'
SYNTAX = 'a line is KEY = VALUE, and texts stand in quotes: by = "para"'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", ": a job has either `pipeline` or [[stages]]", f"for example: {EXAMPLE}"),
        (f"{ECHO}stages = []\n", ": a job has either `pipeline` or [[stages]]", f"for example: {EXAMPLE}"),
        ("# why\npipeline = 3\n", ":2: pipeline is a text", EXAMPLE),
        ("stages = []\n", ":1: stages are tables: [[stages]]", ""),
        ("stages = 3\n", ":1: stages are tables: [[stages]]", ""),
        ('[stages]\ntask = "ner"\n', ":1: stages are tables: [[stages]]", ""),
        (f"inputs = [3]\n{ECHO}", ":1: inputs is a list of file names", ""),
        (f"inputs = 3\n{ECHO}", ":1: inputs is a list of file names", ""),
        (f'{ECHO}outputs = "x"\n', ":2: unknown key 'outputs'", "did you mean 'output'?"),
        (f'{ECHO}input = "x"\n', ":2: unknown key 'input'", "did you mean 'inputs'?"),
        (
            f'{ECHO}[ner]\nas = "x"\n',
            ":2: unknown key 'ner'",
            "a job has inputs, pipeline, stages and the options of a run",
        ),
        (f"{ECHO}threads = true\n", ":2: --threads takes a text or a number, not true or false", ""),
        (f"{ECHO}cache = 1\n", ":2: --cache takes true or false", ""),
        (f'{ECHO}output = ["x"]\n', ":2: --output takes a text or a number, not a list", ""),
        (
            f"{ECHO}threads = 0\n",
            ":2: invalid value for '--threads': Input should be greater than or equal to 1",
            "`lmcli run --help` says what --threads takes",
        ),
        (
            f'{ECHO}by = "page"\n',
            ":2: invalid value for '--by': 'page' is not one of 'line', 'para', 'doc', 'nul'",
            "`lmcli run --help` says what --by takes",
        ),
        (
            f'{ECHO}output-format = "csv"\noutput_format = "tsv"\n',
            ":3: 'output_format' is set twice",
            "",
        ),
        (f'{ECHO}by = "line"\nby = "para"\n', ":3: cannot overwrite a value", SYNTAX),
        ('pipeline = "ner\n', ":1: illegal character '\\n'", SYNTAX),
        ('[[stages]]\nmodel = "test:echo"\n', ": stage 1: it has no `task`", TASKS),
        ("[[stages]]\ntask = 3\n", ": stage 1: no task 3", TASKS),
        (
            '[[stages]]\ntask = "ner"\n[[stages]]\ntask = "sentimnt"\n',
            ": stage 2: no task 'sentimnt'; did you mean 'sentiment'?",
            TASKS,
        ),
        (
            '[[stages]]\ntask = "ner"\nstile = "spans"\n',
            ": stage 1: ner has no option 'stile'; did you mean 'style'?",
            "its options are field, model, strategy, style, as, color",
        ),
        (
            '[[stages]]\ntask = "ner"\noutput = "x"\n',
            ": stage 1: ner has no option 'output'",
            "its options are field, model, strategy, style, as, color",
        ),
        (
            '[[stages]]\ntask = "ner"\nstyle = "x"\n',
            ": stage 1: style: 'x' is not one of 'inline', 'spans', 'conll'",
            "",
        ),
        (
            '[[stages]]\ntask = "ner"\n[[stages]]\ntask = "sentiment"\nas = "a"\nthreshold = 7\n',
            ": stage 2: threshold: input should be less than or equal to 1",
            "",
        ),
        (
            '[[stages]]\ntask = "ner"\nmodel = { a = 1 }\n',
            ": stage 1: --model takes a text or a number, not a table",
            "",
        ),
        (
            '[[stages]]\ntask = "ner"\nmodel = ["a", "b"]\n',
            ": stage 1: --model takes a text or a number, not a list",
            "",
        ),
        (
            '[[stages]]\ntask = "sentiment"\nall-scores = [true, false]\n',
            ": stage 1: --all-scores takes true or false",
            "",
        ),
        (
            '[[stages]]\ntask = "sentiment"\nall-scores = true\nall_scores = false\n',
            ": stage 1: 'all_scores' is set twice",
            "",
        ),
        (
            '[[stages]]\ntask = "sentiment"\nas = "text"\n',
            ": stage 1: --as 'text': records have or need that field",
            "choose another name",
        ),
        (
            '[[stages]]\ntask = "summarize"\nlength = "short"\nmax-new-tokens = 3\n',
            ": stage 1: --length and --max-new-tokens exclude each other",
            "choose one of the two",
        ),
        ('[[stages]]\ntask = "filter"\n', ": stage 1: filter has `where` and nothing else", ""),
        (
            '[[stages]]\ntask = "select"\nfields = "text"\nas = "x"\n',
            ": stage 1: select has `fields` and nothing else",
            "",
        ),
        ('[[stages]]\ntask = "filter"\nwhere = 3\n', ": stage 1: where is a text", ""),
        (
            '[[stages]]\ntask = "select"\nfields = [1]\n',
            ": stage 1: fields is a text or a list of texts",
            "",
        ),
    ],
)
def test_a_job_that_is_wrong(cli: Cli, jobs: Path, text: str, message: str, hint: str) -> None:
    err = f"lmcli: jobs/job.toml{message}\n" + (f"       {hint}\n" if hint else "")
    assert cli("run", job(jobs, text), stdin=b"x\n") == Ended(78, "", err)


def test_errors_in_a_pipeline_show_its_line_and_the_place(cli: Cli, jobs: Path) -> None:
    text = '# each night\npipeline = "ner model=test:echo | sentimnt"\n'
    assert cli("run", job(jobs, text), stdin=b"x\n") == Ended(
        78,
        "",
        "lmcli: jobs/job.toml:2: no stage 'sentimnt'; did you mean 'sentiment'?\n"
        "       ner model=test:echo | sentimnt\n"
        "                             ^^^^^^^^\n"
        f"       {STEPS}\n",
    )


def test_errors_in_an_expression_show_the_place(cli: Cli, jobs: Path) -> None:
    text = '[[stages]]\ntask = "ner"\n[[stages]]\ntask = "filter"\nwhere = "text = 3"\n'
    assert cli("run", job(jobs, text), stdin=b"x\n") == Ended(
        78,
        "",
        "lmcli: jobs/job.toml: stage 2: '=' is no part of an expression\n"
        "       text = 3\n"
        "            ^\n"
        "       write == to compare\n",
    )


FORMAT = "       -I names the format of the input\n"


def test_a_field_that_the_input_does_not_have(cli: Cli, jobs: Path) -> None:
    """The job may be right, and the input wrong."""
    pipeline = "ner model=test:echo | filter body != 'x'"
    assert cli("run", job(jobs, f'pipeline = "{pipeline}"\n'), stdin=b"x\n") == Ended(
        2,
        "",
        "lmcli: jobs/job.toml:1: no field 'body' in the input; there are 'text', 'entities'\n"
        f"       {pipeline}\n"
        "                                    ^^^^\n"
        f"{FORMAT}",
    )
    stages = '[[stages]]\ntask = "ner"\n[[stages]]\ntask = "filter"\nwhere = "body != 3"\n'
    assert cli("run", job(jobs, stages), stdin=b"x\n") == Ended(
        2,
        "",
        "lmcli: jobs/job.toml: stage 2: no field 'body' in the input; there are 'text', 'entities'\n"
        f"{FORMAT}",
    )


def test_two_stages_with_one_name(cli: Cli, jobs: Path) -> None:
    ended = cli("run", job(jobs, '[[stages]]\ntask = "ner"\n' * 2), stdin=b"x\n")
    assert ended == Ended(
        2,
        "",
        "lmcli: jobs/job.toml: stage 2: two stages add 'entities'\n       name one of them: ner as=NAME\n",
    )


def test_inputs_that_do_not_exist(cli: Cli, jobs: Path) -> None:
    ended = cli("run", job(jobs, f'inputs = "nope.txt"\n{ECHO}'))
    assert (ended.code, ended.err) == (
        66,
        f"lmcli: cannot open {jobs / 'nope.txt'}: No such file or directory\n",
    )


def test_a_job_that_does_not_exist(cli: Cli) -> None:
    assert cli("run", "nope.toml") == Ended(66, "", "lmcli: cannot open nope.toml: there is no such file\n")


def test_a_job_that_is_no_file(cli: Cli) -> None:
    ended = cli("run", "jobs")
    assert (ended.code, ended.err) == (78, "lmcli: jobs is not a regular file\n")


def test_a_job_is_needed(cli: Cli) -> None:
    assert cli("run").code == 2


def test_help_needs_no_job(cli: Cli) -> None:
    assert cli("run", "--help").code == cli("run", "nope.toml", "--help").code == 0


def test_a_model_that_does_not_exist(cli: Cli, jobs: Path) -> None:
    ended = cli("run", job(jobs, 'pipeline = "ner model=nope"\n'), stdin=b"x\n")
    assert (ended.code, ended.out) == (76, "")
    assert ended.err.startswith("lmcli: jobs/job.toml:1: there is no bundle 'nope'\n       ner model=nope\n")
