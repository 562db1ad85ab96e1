"""Finding, checking, listing, removing and writing bundles."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lmcli
from lmcli.bundle.manifest import MANIFEST_NAME, FileFacts
from lmcli.bundle.store import (
    DEFAULTS,
    HASHED_AT_OPENING,
    Broken,
    Bundle,
    find_bundle,
    iter_bundles,
    open_bundle,
    read_bundle,
    user_store,
    verify,
)
from lmcli.bundle.write import file_facts, new_bundle, remove
from lmcli.errors import REBUILD, BundleError, LmcliError, OutputError, UsageError

WriteBundle = Callable[..., Path]


def said(error: pytest.ExceptionInfo[LmcliError]) -> tuple[str, str]:
    return error.value.message, error.value.hint


@pytest.mark.parametrize(
    ("name", "found"),
    [
        pytest.param("both", "exported/both", id="the working directory comes first"),
        pytest.param("mine", "../home/bundles/mine", id="then the user's store"),
        pytest.param("./both", "both", id="a name with a dot and a slash is a path"),
        pytest.param("exported/both", "exported/both", id="a name with a slash is a path"),
        pytest.param("../home/bundles/both", "../home/bundles/both", id="a path may lead anywhere"),
    ],
)
def test_open_finds(name: str, found: str, home: Path, write_bundle: WriteBundle) -> None:
    for place in (Path("exported"), home / "bundles", Path()):
        write_bundle(place / "both")
    write_bundle(home / "bundles" / "mine")
    assert open_bundle(name, task="text-classification").path.resolve() == Path(found).resolve()


@pytest.mark.usefixtures("home")
def test_open_without_a_name_opens_the_default_of_the_task(write_bundle: WriteBundle) -> None:
    write_bundle(Path("exported/ner-en"), task="token-classification")
    assert open_bundle(None, task="token-classification").path == Path("exported/ner-en")


@pytest.mark.usefixtures("home")
def test_a_bundle_gives_paths_of_listed_files_only(write_bundle: WriteBundle) -> None:
    bundle = read_bundle(write_bundle(Path("exported/tiny")))
    assert bundle.file("model.onnx") == Path("exported/tiny/model.onnx")
    with pytest.raises(BundleError) as error:
        bundle.file("../secret")
    assert said(error) == ("exported/tiny: the bundle has no file '../secret'", REBUILD)


def test_a_missing_bundle_is_answered_with_those_there_are(home: Path, write_bundle: WriteBundle) -> None:
    installed = ["sentiment-en"] if shipped("sentiment-en") else []
    write_bundle(Path("exported/reviews-de"))
    write_bundle(home / "bundles" / "names-de", task="token-classification")
    with pytest.raises(BundleError) as error:
        open_bundle("review-de", task="text-classification")
    there_are = ", ".join(["reviews-de", *installed])
    assert said(error) == (
        "there is no bundle 'review-de'; did you mean 'reviews-de'?",
        f"the bundles for text-classification are: {there_are}; "
        "`lmcli export SOURCE review-de` makes it from a model",
    )


def shipped(name: str) -> bool:
    return (Path(lmcli.__file__).parent.parent / "exported" / name).is_dir()


@pytest.mark.usefixtures("home")
def test_a_missing_path_is_no_lookup() -> None:
    with pytest.raises(BundleError) as error:
        open_bundle("org/model", task="text-classification")
    assert said(error) == (
        "org/model: no such directory",
        "`lmcli export SOURCE NAME` makes a bundle of a model",
    )


@pytest.mark.usefixtures("home")
def test_a_bundle_of_another_task_names_its_command(write_bundle: WriteBundle) -> None:
    write_bundle(Path("exported/names"), task="token-classification")
    with pytest.raises(BundleError) as error:
        open_bundle("names", task="text-classification")
    assert said(error) == (
        "names is a bundle for token-classification, not for text-classification",
        "`lmcli ner --model names` runs it",
    )


@pytest.mark.usefixtures("home")
def test_a_path_may_be_a_file() -> None:
    Path("model.onnx").touch()
    with pytest.raises(BundleError) as error:
        open_bundle("./model.onnx", task="text-classification")
    assert said(error) == ("model.onnx is not an lmcli bundle: it has no manifest.json", REBUILD)


def test_a_place_that_cannot_be_listed_is_skipped(home: Path) -> None:
    home.touch()
    Path("exported").touch()
    with pytest.raises(BundleError, match="there is no bundle 'tiny'"):
        find_bundle("tiny")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a b", "ä", "a\n", "a\0b"])
def test_a_name_is_plain(name: str) -> None:
    with pytest.raises(UsageError) as error:
        find_bundle(name)
    assert said(error) == (
        f"{name!r} cannot be the name of a bundle",
        "a name has letters, digits, '.', '_' and '-', and starts with a letter or a digit",
    )


def delete(path: Path) -> None:
    path.unlink()


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"the", b"The"))


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b".")


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere.resolve())


@pytest.mark.parametrize(
    ("harm", "status"),
    [
        pytest.param(delete, "missing", id="missing"),
        pytest.param(edit, "changed", id="same size, other content"),
        pytest.param(lengthen, "changed", id="other size"),
        pytest.param(link, "not a regular file", id="symlink"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "README.md"])
def test_a_damaged_file_is_found_at_opening_and_by_verify(
    harm: Callable[[Path], None], status: str, name: str, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    path = write_bundle(tmp_path / "tiny")
    harm(path / name)
    with pytest.raises(BundleError) as error:
        read_bundle(path)
    assert said(error) == (f"{path / name} is {status}", REBUILD)
    assert dict(verify(path))[name] == status


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path, write_bundle: WriteBundle) -> None:
    path = write_bundle(tmp_path / "tiny")
    manifest = (path / MANIFEST_NAME).read_text()
    too_long = 300 * "x"
    (path / MANIFEST_NAME).write_text(manifest.replace("README.md", too_long))
    assert dict(verify(path))[too_long] == "unreadable"


def test_a_large_file_is_hashed_by_verify_only(tmp_path: Path, write_bundle: WriteBundle) -> None:
    path = write_bundle(tmp_path / "large")
    size = HASHED_AT_OPENING + 1
    with (path / "model.onnx").open("wb") as sparse:
        sparse.truncate(size)
    facts = json.loads((path / MANIFEST_NAME).read_bytes())
    facts["files"]["model.onnx"]["size"] = size
    (path / MANIFEST_NAME).write_text(json.dumps(facts))
    assert read_bundle(path).manifest.files["model.onnx"].size == size
    assert dict(verify(path))["model.onnx"] == "changed"


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_manifest_must_list_what_a_run_needs(name: str, tmp_path: Path, write_bundle: WriteBundle) -> None:
    path = write_bundle(tmp_path / "tiny")
    facts = json.loads((path / MANIFEST_NAME).read_bytes())
    del facts["files"][name]
    (path / MANIFEST_NAME).write_text(json.dumps(facts))
    with pytest.raises(BundleError) as error:
        read_bundle(path)
    assert said(error) == (f"{path}: the manifest lists no {name}", REBUILD)


@pytest.mark.parametrize("kind", ["symlink", "directory", "too large"])
def test_the_manifest_is_a_regular_file_of_sane_size(
    kind: str, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    manifest = write_bundle(tmp_path / "tiny") / MANIFEST_NAME
    if kind == "too large":
        os.truncate(manifest, 2**30)
    elif kind == "symlink":
        link(manifest)
    else:
        manifest.unlink()
        manifest.mkdir()
    with pytest.raises(BundleError) as error:
        read_bundle(manifest.parent)
    assert said(error) == (f"{manifest}: not a manifest of an lmcli bundle", REBUILD)


def test_a_checkpoint_is_not_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BundleError) as error:
        read_bundle(tmp_path)
    assert said(error) == (
        f"{tmp_path} is a model checkpoint, not an lmcli bundle",
        f"`lmcli export {tmp_path} NAME` makes a bundle of it",
    )


def test_any_other_directory_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        read_bundle(tmp_path)
    assert said(error) == (f"{tmp_path} is not an lmcli bundle: it has no manifest.json", REBUILD)


def test_the_list_has_each_name_once_and_reports_the_broken(home: Path, write_bundle: WriteBundle) -> None:
    write_bundle(Path("exported/a"))
    write_bundle(home / "bundles" / "a")
    write_bundle(home / "bundles" / "b", task="token-classification")
    (write_bundle(home / "bundles" / "c") / "model.onnx").unlink()
    Path("exported/.hidden").mkdir()
    Path("exported/notes.txt").write_text("not a directory")
    own = [found for found in iter_bundles() if found.path.name not in DEFAULTS.values()]
    assert [(type(found), found.path) for found in own] == [
        (Bundle, Path("exported/a")),
        (Bundle, home / "bundles" / "b"),
        (Broken, home / "bundles" / "c"),
    ]
    assert isinstance(own[2], Broken)
    assert own[2].error.message == f"{home}/bundles/c/model.onnx is missing"


def test_a_bundle_with_a_file_that_is_not_listed_is_refused(
    tmp_path: Path, write_bundle: WriteBundle
) -> None:
    path = write_bundle(tmp_path / "tiny")
    (path / "weights.data").touch()
    with pytest.raises(BundleError, match=r"weights\.data is not in the manifest"):
        read_bundle(path)


def test_verify_lists_every_file_and_what_does_not_belong(tmp_path: Path, write_bundle: WriteBundle) -> None:
    path = write_bundle(tmp_path / "tiny")
    (path / "notes.txt").touch()
    (path / "README.md").unlink()
    assert verify(path) == [
        ("README.md", "missing"),
        ("model.onnx", "ok"),
        ("tokenizer.json", "ok"),
        ("notes.txt", "unlisted"),
    ]


def test_remove_takes_the_bundle_that_the_name_finds(home: Path, write_bundle: WriteBundle) -> None:
    write_bundle(Path("exported/a"))
    write_bundle(home / "bundles" / "a")
    assert remove("a") == Path("exported/a")
    assert list(Path("exported").iterdir()) == []
    assert find_bundle("a") == home / "bundles" / "a"


@pytest.mark.usefixtures("home")
def test_remove_takes_a_symlink_and_leaves_what_it_points_at(write_bundle: WriteBundle) -> None:
    real = write_bundle(Path("elsewhere/a"))
    Path("exported").mkdir()
    Path("exported/a").symlink_to(real.resolve())
    remove("a")
    assert list(Path("exported").iterdir()) == []
    assert read_bundle(real).path == real


@pytest.mark.usefixtures("home")
def test_remove_leaves_a_directory_that_is_no_bundle() -> None:
    Path("exported/papers").mkdir(parents=True)
    with pytest.raises(BundleError) as error:
        remove("papers")
    assert said(error) == (
        "exported/papers is not an lmcli bundle: it has no manifest.json",
        REBUILD,
    )
    assert Path("exported/papers").is_dir()


@pytest.mark.usefixtures("home")
def test_remove_of_a_missing_bundle_says_so() -> None:
    with pytest.raises(BundleError, match="there is no bundle 'nothing'"):
        remove("nothing")


@pytest.mark.usefixtures("home")
def test_remove_wants_a_name_not_a_path() -> None:
    with pytest.raises(UsageError, match="cannot be the name of a bundle"):
        remove("../a")


@pytest.mark.parametrize("place", ["lmcli/exported", "exported"])
def test_a_shipped_bundle_is_found_and_cannot_be_removed(
    place: str, home: Path, tmp_path: Path, write_bundle: WriteBundle
) -> None:
    """In a wheel they are inside the package, in a source checkout beside it."""
    site = tmp_path / "site"
    shutil.copytree(Path(lmcli.__file__).parent, site / "lmcli", ignore=only_what_store_needs)
    bundle = write_bundle(site / place / "sentiment-en")
    code = (
        "from lmcli.bundle.store import find_bundle\n"
        "from lmcli.bundle.write import remove\n"
        "from lmcli.errors import UsageError\n"
        "print(find_bundle('sentiment-en'))\n"
        "try: remove('sentiment-en')\n"
        "except UsageError as error: print(error.message)"
    )
    environment = {**os.environ, "LMCLI_HOME": str(home), "PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (
        f"{bundle}\nsentiment-en ships with lmcli and cannot be removed ({bundle})\n",
        "",
    )


def only_what_store_needs(folder: str, names: list[str]) -> set[str]:
    if Path(folder).name != "lmcli":
        return {"__pycache__"}
    return set(names) - {"__init__.py", "errors.py", "spelling.py", "bundle", "engine"}


@pytest.mark.parametrize("force", [False, True])
def test_a_new_bundle_appears_when_it_is_complete(tmp_path: Path, force: bool) -> None:
    with new_bundle(tmp_path / "exported", "tiny", force=force) as path:
        (path / "model.onnx").write_bytes(b"graph")
        assert not (tmp_path / "exported" / "tiny").exists()
    assert tree(tmp_path / "exported") == {"tiny/model.onnx": b"graph"}


def tree(place: Path) -> dict[str, bytes]:
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


@pytest.mark.parametrize("exception", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_bundle_leaves_nothing_behind(
    exception: type[BaseException], tmp_path: Path, write_bundle: WriteBundle
) -> None:
    before = tree(write_bundle(tmp_path / "tiny").parent)

    def fail_half_way() -> None:
        with new_bundle(tmp_path, "tiny", force=True) as path:
            (path / "model.onnx").write_bytes(b"half a gr")
            raise exception

    with pytest.raises(exception):
        fail_half_way()
    assert tree(tmp_path) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_force_replaces_a_bundle_as_a_whole(tmp_path: Path, write_bundle: WriteBundle) -> None:
    write_bundle(tmp_path / "tiny")
    with new_bundle(tmp_path, "tiny", force=True) as path:
        (path / "model.onnx").write_bytes(b"graph")
    assert tree(tmp_path) == {"tiny/model.onnx": b"graph"}


def test_without_force_nothing_is_begun(tmp_path: Path, write_bundle: WriteBundle) -> None:
    target = write_bundle(tmp_path / "tiny")
    with pytest.raises(UsageError) as error, new_bundle(tmp_path, "tiny", force=False):
        pytest.fail("the work was begun")
    assert said(error) == (
        f"{target} exists already",
        "choose another name, or replace it with --force",
    )


def test_force_replaces_nothing_but_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "papers").mkdir()
    with pytest.raises(UsageError) as error, new_bundle(tmp_path, "papers", force=True):
        pytest.fail("the work was begun")
    assert said(error) == (
        f"{tmp_path}/papers is not an lmcli bundle, so --force does not replace it",
        "choose another name, or move it away",
    )


def test_the_slower_of_two_exports_of_one_name_is_refused(tmp_path: Path, write_bundle: WriteBundle) -> None:
    with (
        pytest.raises(UsageError, match="exists already"),
        new_bundle(tmp_path, "tiny", force=False),
    ):
        write_bundle(tmp_path / "tiny")
    assert read_bundle(tmp_path / "tiny").manifest.name == "tiny"


def test_a_place_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as error, new_bundle(tmp_path / "file", "tiny", force=False):
        pytest.fail("the work was begun")
    assert said(error) == (f"cannot write {tmp_path}/file: File exists", "")


def test_the_next_export_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from lmcli.bundle.write import new_bundle\n"
        "with new_bundle(Path(sys.argv[1]), 'killed', force=False): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with new_bundle(tmp_path, "next", force=False):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["next"]


def test_an_export_never_sweeps_one_at_work(tmp_path: Path) -> None:
    with new_bundle(tmp_path, "slow", force=False) as slow:
        with new_bundle(tmp_path, "quick", force=False):
            pass
        (slow / "model.onnx").write_bytes(b"graph")
    assert tree(tmp_path) == {"slow/model.onnx": b"graph"}


def test_a_lock_elsewhere_does_not_hold_up_an_export(tmp_path: Path) -> None:
    other = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_SH)
        with new_bundle(tmp_path, "tiny", force=False):
            pass
    finally:
        os.close(other)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]


def test_file_facts_are_size_and_hash_of_all_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "a").touch()
    (tmp_path / MANIFEST_NAME).write_text("{}")
    assert file_facts(tmp_path) == {
        "a": FileFacts(size=0, sha256="e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        "b": FileFacts(size=3, sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    }


def test_file_facts_refuse_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(BundleError) as error:
        file_facts(tmp_path)
    assert said(error) == (f"{tmp_path}/link: a bundle holds regular files only", "")


@pytest.mark.parametrize("path", ["~/.local/share/lmcli", "relative"])
def test_without_a_home_there_is_no_store(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMCLI_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: Path(path))
    assert user_store() is None


def test_a_home_that_cannot_be_told_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LMCLI_HOME", raising=False)
    monkeypatch.setattr("platformdirs.user_data_path", fail)
    assert user_store() is None


def test_an_empty_lmcli_home_counts_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert user_store() == tmp_path / "lmcli" / "bundles"
