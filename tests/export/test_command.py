"""`lmcli export` as a user types it: from the hub, into the store, and every way to be refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmcli.cli.app import run
from tests.export.hub_server import COMMIT, Hub
from tests.export.sentence_encoders import write_sentence_encoder
from tests.export.wheels import use_index, write_wheel

pytest.importorskip("optimum.exporters.onnx")

from tests.export.checkpoints import write_checkpoint
from tests.export.seq2seq_models import write_checkpoint as write_seq2seq_checkpoint

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]


def lmcli(*arguments: object, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmcli", *map(str, arguments)],
        env={**os.environ, "LMCLI_HOME": str(home), **environment},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_a_model_of_the_hub_becomes_a_bundle_that_runs(hub: Hub, home: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "distilbert")
    hub.files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    hub.files["README.md"] = b"---\nlicense: mit\n---\n# Tiny\n"
    hub.files["modeling_tiny.py"] = b"raise SystemExit('remote code ran')"
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    done = lmcli("export", "org/tiny@v1", home=home, **environment)
    assert (done.returncode, done.stdout) == (0, f"{home}/bundles/tiny\n")
    assert done.stderr.splitlines()[:2] == [
        f"lmcli: read org/tiny at {COMMIT}",
        "lmcli: tokenizer: equal to the source on 63 lines",
    ]
    assert not [asked for asked in hub.requests if asked.endswith(".py")]
    shown = lmcli("models", "show", "tiny", home=home)
    for fact in ('"license": "mit"', f'"revision": "{COMMIT}"', '"kind": "hub"', '"tier": "fast"'):
        assert fact in shown.stdout
    (home / "in.txt").write_text("A quiet triumph.\n\nI wanted to like it.\n")
    labelled = lmcli("sentiment", "--model", "tiny", "in.txt", home=home)
    assert labelled.returncode == 0
    assert [line.partition("\t")[2][7:] for line in labelled.stdout.splitlines()] == [
        "A quiet triumph.",
        "",
        "I wanted to like it.",
    ]


@pytest.mark.parametrize(
    ("model_type", "options", "command", "context_length"),
    [
        pytest.param("marian", [], "translate", 130, id="the task by the architecture"),
        pytest.param("t5", ["--task", "translation"], "translate", 1024, id="the task by its name"),
        pytest.param("t5", ["--task", "summarize"], "summarize", 1024, id="the task by the command"),
        pytest.param("marian", ["--context-length", "64"], "translate", 64, id="a short context"),
    ],
)
def test_an_encoder_decoder_becomes_a_bundle_that_runs(
    model_type: str, options: list[str], command: str, context_length: int, home: Path, tmp_path: Path
) -> None:
    checkpoint = write_seq2seq_checkpoint(tmp_path / "checkpoint", model_type)
    (home / "lines.txt").write_text("A quiet triumph.\nWhere is it?\n")
    done = lmcli("export", checkpoint, "tiny", "--lines", "lines.txt", *options, home=home)
    assert (done.returncode, done.stdout) == (0, f"{home}/bundles/tiny\n"), done.stderr
    shown = lmcli("models", "show", "tiny", home=home).stdout
    assert f'"context_length": {context_length},' in shown
    (home / "in.txt").write_text("A quiet triumph.\n\nI wanted to like it.\n")
    written = lmcli(command, "--model", "tiny", "--max-new-tokens", "8", "in.txt", home=home)
    assert written.returncode == 0
    assert [bool(line) for line in written.stdout.split("\n")] == [True, False, True, False]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["nowhere/", "x"], 66, "'nowhere/' is neither a directory nor the id", id="source"),
        pytest.param(["empty", "x"], 65, "empty has no config.json", id="no checkpoint"),
        pytest.param(["empty", "a/b"], 2, "'a/b' cannot be the name of a bundle", id="name"),
        pytest.param(["empty", "x", "--lines", "no.txt"], 66, "cannot read no.txt", id="no lines"),
        pytest.param(["empty", "x", "--lines", "blank.txt"], 66, "has no lines of text", id="blank lines"),
        pytest.param(["empty", "x", "--notes", "latin.txt"], 66, "latin.txt is not UTF-8", id="encoding"),
        pytest.param(
            ["empty", "x", "--device", "cuda", "--precision", "int8"],
            2,
            "int8 is for the CPU",
            id="cuda int8",
        ),
        pytest.param(["empty", "x", "--task", "fill"], 2, "Invalid value for '--task'", id="task"),
        pytest.param(["empty", "x", "--precision", "int4"], 2, "Invalid value for '--precision'", id="int4"),
        pytest.param(["empty", "x", "--into", "blank.txt"], 73, "blank.txt", id="folder"),
    ],
)
def test_refusals(arguments: list[str], code: int, message: str, home: Path) -> None:
    (home / "empty").mkdir()
    (home / "blank.txt").write_text("\n \n")
    (home / "latin.txt").write_bytes(b"\xe9")
    done = lmcli("export", *arguments, home=home)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert not list(home.glob("bundles/*"))


def test_a_killed_export_leaves_no_bundle(home: Path, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    command = [sys.executable, "-m", "lmcli", "export", str(checkpoint), "tiny"]
    environment = {**os.environ, "LMCLI_HOME": str(home)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the work has begun
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    deadline = time.monotonic() + 10
    while list((home / "bundles").iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list((home / "bundles").iterdir())


@pytest.mark.parametrize(
    ("source", "missing", "message"),
    [
        pytest.param(
            "bert",
            ["torch"],
            "export needs packages that are not installed: torch",
            id="a checkpoint that is traced",
        ),
        pytest.param(
            "zamba",
            ["torch", "transformers"],
            "export needs packages that are not installed: torch, transformers",
            id="an architecture that only transformers knows",
        ),
        pytest.param(
            "org/tiny",
            ["huggingface_hub"],
            "'org/tiny' is no directory, and a model of the hub needs packages that are not installed: "
            "huggingface_hub",
            id="the hub",
        ),
    ],
)
def test_without_the_extra_the_command_says_what_to_install(
    source: str, missing: list[str], message: str, home: Path
) -> None:
    for name, architecture in (("bert", "BertForSequenceClassification"), ("zamba", "ZambaForCausalLM")):
        (home / name).mkdir()
        config = {"model_type": name, "architectures": [architecture]}
        (home / name / "config.json").write_text(json.dumps(config))
        (home / name / "model.safetensors").touch()
    program = (
        "import sys\n"
        f"for name in {missing}: sys.modules[name] = None\n"
        "from lmcli.cli.app import run\n"
        f"sys.exit(run(['export', {source!r}, '--quiet']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "LMCLI_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert done.stderr.splitlines() == [
        f"lmcli: {message}",
        "       install them: pip install 'lmcli[export]'",
    ]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pypi:tiny-model==1.0", "tiny-model"),
        ("models/tiny.Q4_1.gguf", "tiny.Q4_1"),
        ("org/tiny@v1", "tiny"),
        (".", "home"),
    ],
)
def test_a_bundle_has_the_name_of_its_source(
    source: str, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def export(source: str, name: str, *_: object, **__: object) -> Path:
        asked.append((source, name))
        return home / name

    monkeypatch.chdir(home)
    monkeypatch.setattr("lmcli.export.convert.export", export)
    assert run(["export", source, "--into", "bundles"]) == 0
    assert asked == [(source, name)]


def test_a_package_becomes_a_bundle_that_runs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n")
    files = {path: path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}
    wheel = write_wheel(
        tmp_path / "index",
        {f"tiny/model/{path.relative_to(checkpoint)}": content for path, content in files.items()},
    )
    use_index(tmp_path / "index", monkeypatch)
    done = lmcli("export", "pypi:tiny==1.0", home=home)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert (done.returncode, done.stdout) == (0, f"{home}/bundles/tiny\n"), done.stderr
    assert done.stderr.splitlines()[0] == f"lmcli: read tiny==1.0 at {found}"
    source = json.loads(lmcli("models", "show", "tiny", home=home).stdout)["source"]
    assert source["kind"] == "wheel"
    assert (source["model"], source["revision"], source["license"]) == ("tiny==1.0", found, "mit")
    (home / "in.txt").write_text("A quiet triumph.\n")
    embedded = lmcli("embed", "--model", "tiny", "in.txt", home=home)
    assert len(json.loads(embedded.stdout)) == 64
    assert [entry.name for entry in (home / "bundles").iterdir()] == ["tiny"]
