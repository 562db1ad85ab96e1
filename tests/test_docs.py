"""The documentation runs: every `console` block is executed, and what the code has is on its page.

`python tests/test_docs.py` writes what the commands of the blocks print now into the pages. A `console NAME`
block needs bundles that do not ship with lmcli; it is executed where your store has them (`lmcli pull NAME`).
"""

import ast
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import typer.main

from lmcli import errors
from lmcli.bundle.manifest import Manifest
from lmcli.bundle.store import shipped, user_store
from lmcli.cli.app import app
from lmcli.errors import LmcliError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
CONSOLE = re.compile(r"^```console((?: [\w.-]+)*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
# Between the outputs of two commands; `$?` of the first is still there for the second.
SEPARATOR = "-- next command --"
# int8 kernels differ between CPUs, so scores are the same only nearly.
SCORE = re.compile(r"(\d+\.\d+)")
SCORE_TOLERANCE = 0.01


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def console_blocks(page: Path, *, pulled: bool) -> list[str]:
    """The blocks that run with what ships with lmcli, or those that need more."""
    found = CONSOLE.findall(page.read_text(encoding="utf-8"))
    return [block for needed, block in found if bool(needed) is pulled]


def pulled(page: Path) -> set[str]:
    """The bundles that the blocks of a page need besides those that ship with lmcli."""
    found = CONSOLE.findall(page.read_text(encoding="utf-8"))
    return {name for needed, _ in found for name in needed.split()}


def commands(block: str) -> list[str]:
    return [line.removeprefix(PROMPT) for line in block.splitlines() if line.startswith(PROMPT)]


def run_block(block: str, folder: Path) -> str:
    """The block as one shell shows it: each command, and below it its stdout and stderr."""
    between = f"; status=$?; echo '{SEPARATOR}'; (exit $status)\n"
    done = subprocess.run(
        ["bash", "-c", "".join(command + between for command in commands(block))],
        cwd=folder / "samples",
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    printed = done.stdout.decode().replace(str(shipped()), ".../exported")
    outputs = printed.split(f"{SEPARATOR}\n")
    return "".join(
        f"{PROMPT}{command}\n{out}" for command, out in zip(commands(block), outputs, strict=False)
    )


def environment(folder: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LMCLI_", "HF_"))}
    for name in ("NO_COLOR", "FORCE_COLOR"):
        plain.pop(name, None)
    path = os.pathsep.join([str(Path(sys.executable).parent), plain["PATH"]])
    return plain | {"PATH": path, "LMCLI_HOME": str(folder / "home"), "LC_ALL": "C.UTF-8", "COLUMNS": "100"}


def fresh_folder(folder: Path) -> Path:
    """Where the blocks of a page run one after another, so that a later one finds the files of an earlier."""
    shutil.copytree(DOCS / "samples", folder / "samples")
    return folder


def missing(names: Iterable[str]) -> list[str]:
    """Which bundles the user's store does not have."""
    store = user_store()
    return sorted(name for name in names if store is None or not (store / name).is_dir())


def lend(names: Iterable[str], folder: Path) -> None:
    """Let the blocks see bundles of the user's store."""
    store = user_store()
    for name in names:
        assert store is not None
        (folder / "home" / "bundles").mkdir(parents=True, exist_ok=True)
        (folder / "home" / "bundles" / name).symlink_to(store / name)


def nearly_equal(expected: str, actual: str) -> bool:
    """Equal but for the last digits of scores."""
    ours, theirs = SCORE.split(expected), SCORE.split(actual)
    if len(ours) != len(theirs) or ours[::2] != theirs[::2]:
        return False
    pairs = zip(ours[1::2], theirs[1::2], strict=True)
    return all(abs(float(one) - float(other)) <= SCORE_TOLERANCE for one, other in pairs)


@pytest.mark.parametrize("page", [page for page in PAGES if console_blocks(page, pulled=False)], ids=page_id)
def test_console_blocks_show_what_the_commands_print(page: Path, tmp_path: Path) -> None:
    check_blocks(console_blocks(page, pulled=False), fresh_folder(tmp_path))


@pytest.mark.parametrize("page", [page for page in PAGES if pulled(page)], ids=page_id)
def test_console_blocks_of_pulled_models_do_so_too(page: Path, tmp_path: Path) -> None:
    if names := missing(pulled(page)):
        pytest.skip(f"your store lacks {', '.join(names)}: `lmcli pull` gets them")
    folder = fresh_folder(tmp_path)
    lend(pulled(page), folder)
    check_blocks(console_blocks(page, pulled=True), folder)


def check_blocks(blocks: Iterable[str], folder: Path) -> None:
    for block in blocks:
        actual = run_block(block, folder)
        if not nearly_equal(block, actual):
            assert block == actual


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ("POSITIVE\t0.9961\tFine\n", "POSITIVE\t0.9958\tFine\n", True),
        ('{"score":0.9950}', '{"score":0.994951}', True),
        ("POSITIVE\t0.9961\tFine\n", "NEGATIVE\t0.9961\tFine\n", False),
        ("POSITIVE\t0.9961\tFine\n", "POSITIVE\t0.9361\tFine\n", False),
        ("0.9961\n", "", False),
    ],
)
def test_scores_are_compared_nearly_and_all_else_exactly(expected: str, actual: str, same: bool) -> None:
    assert nearly_equal(expected, actual) is same


def walk_commands() -> Iterator[tuple[str, list[str]]]:
    """The page of each command, and the options of that command."""
    main = typer.main.get_command(app)
    for name, command in getattr(main, "commands", {}).items():
        for each in [command, *getattr(command, "commands", {}).values()]:
            options = [option for param in each.params for option in param.opts if option.startswith("-")]
            yield name, options


def test_the_app_has_commands_to_document() -> None:
    assert {name for name, _ in walk_commands()} >= {"sentiment", "ner", "export", "models"}


@pytest.mark.parametrize(
    ("name", "options"), [pytest.param(*each, id=f"{i}-{each[0]}") for i, each in enumerate(walk_commands())]
)
def test_every_command_has_a_page_with_a_sentence_for_every_option(name: str, options: list[str]) -> None:
    page = (DOCS / "commands" / f"{name}.md").read_text(encoding="utf-8")
    items = re.findall(r"^- (`-[^`]*`(?:, `-[^`]*`)*): \S", page, re.MULTILINE)
    described = {option for item in items for option in re.findall(r"(?<![\w-])--?[\w-]+", item)}
    assert set(options) - described == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target, anchor in links(page.read_text(encoding="utf-8")):
        leads_to = page.parent / target if target else page
        assert leads_to.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(leads_to.read_text(encoding="utf-8")), f"{target} has no #{anchor}"


def links(text: str) -> list[tuple[str, str]]:
    """Targets and anchors of the links of a page that lead to files; code shows no links."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", prose)
    return [(target, anchor) for target, anchor in found if "://" not in target]


def anchors(text: str) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    facts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    changelog = (DOCS / "changelog.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+\S*)", changelog, re.MULTILINE)
    assert versions[:1] == [facts["project"]["version"]]


def test_every_failure_code_is_described() -> None:
    codes = {code for room in ("records", "tasks") for code in failure_codes(ROOT / "lmcli" / room)}
    assert codes, "no failure codes found in the code"
    assert codes - table_keys(DOCS / "records.md") == set()


def failure_codes(room: Path) -> Iterator[str]:
    """The first arguments of `Failure(...)` and `record.failed(...)` in the modules of a package."""
    for module in room.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Name(id="Failure") | ast.Attribute(attr="failed"),
                    args=[ast.Constant(value=str(code)), *_],
                ):
                    yield code


def test_every_field_of_the_manifest_is_described() -> None:
    fields = {field.name for field in dataclasses.fields(Manifest)}
    assert fields - table_keys(DOCS / "models.md") == set()


def test_every_exit_code_is_described() -> None:
    constants = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    codes = constants | {LmcliError.exit_code, *(error.exit_code for error in subclasses(LmcliError))}
    assert {str(code) for code in codes} - table_keys(DOCS / "index.md") == set()


def subclasses(error: type[LmcliError]) -> Iterable[type[LmcliError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def table_keys(page: Path) -> set[str]:
    """What stands in the first column of the tables of a page, without backticks."""
    return set(re.findall(r"^\| *`?([^`|]+?)`? *\|", page.read_text(encoding="utf-8"), re.MULTILINE))


def rewrite(page: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = fresh_folder(Path(scratch))

        def run_again(found: re.Match[str]) -> str:
            needed = found[1].split()
            if missing(needed):
                return found[0]
            lend(needed, folder)
            output = run_block(found[2], folder)
            for name in needed:
                (folder / "home" / "bundles" / name).unlink()
            return f"```console{found[1]}\n{output}```"

        written = CONSOLE.sub(run_again, page.read_text(encoding="utf-8"))
    page.write_text(written, encoding="utf-8")


if __name__ == "__main__":
    for each_page in PAGES:
        rewrite(each_page)
