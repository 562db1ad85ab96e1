"""The catalogue, and what a missing bundle says of it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcli.bundle.catalogue import catalogue, find_entry
from lmcli.bundle.store import DEFAULTS, check_name, find_bundle, open_bundle, shipped
from lmcli.bundle.write import remove
from lmcli.errors import BundleError, LmcliError, UsageError

WriteBundle = Callable[..., Path]


def said(error: pytest.ExceptionInfo[LmcliError]) -> tuple[str, str]:
    return error.value.message, error.value.hint


@pytest.mark.parametrize("name", catalogue())
def test_an_entry_says_all_there_is_to_know(name: str) -> None:
    check_name(name)
    entry = catalogue()[name]
    assert re.fullmatch(r"pypi:[a-z0-9-]+==[0-9.]+", entry.source)
    assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
    assert entry.size > 0
    assert entry.license
    assert entry.description


def test_what_a_command_runs_by_default_ships_or_can_be_got() -> None:
    there = set(catalogue()) | {path.name for path in shipped().iterdir()}
    assert set(DEFAULTS.values()) <= there
    assert all(DEFAULTS[entry.task] == name for name, entry in catalogue().items())


def test_the_cost_is_what_a_person_asks_for() -> None:
    assert find_entry("smollm2-135m-instruct").cost == "93 MB, Apache-2.0"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        find_entry("smolm2-135m-instruct")
    assert said(error) == (
        "the catalogue has no 'smolm2-135m-instruct'; did you mean 'smollm2-135m-instruct'?",
        "it has smollm2-135m-instruct, all-minilm-l6-v2; `lmcli export SOURCE` takes other models",
    )
    with pytest.raises(UsageError, match=r"the catalogue has no 'x'$"):
        find_entry("x")


PULL = "`lmcli pull all-minilm-l6-v2` gets it (84 MB, Apache-2.0)"


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(None, "there is no bundle 'all-minilm-l6-v2'", id="the default"),
        pytest.param("all-minilm-l6-v2", "there is no bundle 'all-minilm-l6-v2'", id="its name"),
        pytest.param(
            "all-minilm-l6",
            "there is no bundle 'all-minilm-l6'; did you mean 'all-minilm-l6-v2'?",
            id="nearly its name",
        ),
    ],
)
def test_a_missing_bundle_of_the_catalogue_names_the_command(name: str | None, message: str) -> None:
    with pytest.raises(BundleError) as error:
        open_bundle(name, task="feature-extraction")
    assert said(error) == (message, PULL)


@pytest.mark.usefixtures("home")
def test_a_name_of_the_catalogue_is_known_without_a_task() -> None:
    with pytest.raises(BundleError) as error:
        find_bundle("all-minilm-l6-v2")
    assert said(error) == ("there is no bundle 'all-minilm-l6-v2'", PULL)


@pytest.mark.usefixtures("home")
def test_the_catalogue_is_not_named_for_another_task() -> None:
    with pytest.raises(BundleError) as error:
        open_bundle("all-minilm-l6-v2", task="token-classification")
    assert "lmcli pull" not in error.value.hint


def test_a_near_bundle_that_is_there_goes_before(home: Path, write_bundle: WriteBundle) -> None:
    path = write_bundle(home / "bundles" / "all-minilm-l6-v2-fp32", task="feature-extraction")
    manifest = json.loads((path / "manifest.json").read_bytes())
    (path / "manifest.json").write_text(json.dumps(manifest | {"labels": []}))
    with pytest.raises(BundleError) as error:
        open_bundle("all-minilm-l6-v2-fp3", task="feature-extraction")
    assert said(error) == (
        "there is no bundle 'all-minilm-l6-v2-fp3'; did you mean 'all-minilm-l6-v2-fp32'?",
        "the bundles for feature-extraction are: all-minilm-l6-v2-fp32; "
        "`lmcli export SOURCE all-minilm-l6-v2-fp3` makes it from a model",
    )


@pytest.mark.usefixtures("home")
def test_only_what_ships_is_kept_from_being_removed(
    write_bundle: WriteBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a checkout the shipped bundles lie in ./exported, where others may be, too."""
    monkeypatch.setattr("lmcli.bundle.write.shipped", lambda: Path("exported"))
    write_bundle(Path("exported/ner-en"))
    write_bundle(Path("exported/all-minilm-l6-v2"))
    assert remove("all-minilm-l6-v2") == Path("exported/all-minilm-l6-v2")
    with pytest.raises(UsageError, match="ner-en ships with lmcli"):
        remove("ner-en")
