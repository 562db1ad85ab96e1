"""What `prompt.py` measures in processes of their own: lmcli, and peers as their users would write them.

prompt_peers.py jobs BUNDLE BOOK EXAMPLES LINES FOLDER  with lmcli's packages: what all sides are given
prompt_peers.py lmcli BUNDLE THREADS JOBS OUT           with lmcli's packages
prompt_peers.py batch BUNDLE THREADS JOBS OUT           with lmcli's packages: all jobs at once
prompt_peers.py build GGUF FOLDER                       in the environment `.bench`: the model for genai
prompt_peers.py genai FOLDER THREADS JOBS OUT           in the environment `.bench`

JOBS is a list of {"ids": tokens of a prompt, "new": how many tokens to write}; the end does not end them. OUT
gets a list for each: the seconds from its start to each new token.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

warnings.filterwarnings("ignore")
NUM_NEW = 101
"""So that there are 100 steps from the first new token to the last."""
NUM_PIECES = 3
LENGTHS = (490, 1459)
SHORT = 12
NUM_SHOTS = 16
LABELS = ("positive", "negative")
BATCH, BATCH_LENGTH = 64, 32
FIRST = "The three largest cities of France are"


class Job(TypedDict):
    """A prompt to be continued."""

    ids: list[int]
    new: int


def jobs(bundle: str, book: str, examples: str, lines: str, folder: str) -> None:
    """The jobs as files: pieces of a book that do not begin alike, and a few-shot prompt for each line."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{bundle}/tokenizer.json")
    ids = tokenizer.encode(Path(book).read_text(encoding="utf-8"), add_special_tokens=False).ids[2000:]

    def take(length: int, new: int) -> Job:
        piece = ids[:length]
        del ids[:length]
        return {"ids": piece, "new": new}

    short, long = LENGTHS
    warm_up = [take(long, NUM_NEW)]
    measured = [
        take(length, new)
        for _ in range(NUM_PIECES)
        for length, new in ((short, NUM_NEW), (long, 1), (SHORT, NUM_NEW))
    ]
    _write(f"{folder}/write.json", warm_up + measured)
    _write(f"{folder}/batch.json", [take(BATCH_LENGTH, NUM_NEW - 1) for _ in range(BATCH)])
    _write(f"{folder}/first.json", Job(ids=tokenizer.encode(FIRST, add_special_tokens=False).ids, new=16))
    shots = "".join(
        f"Review: {row['sentence']}\nSentiment: {row['label']}\n\n" for row in _table(examples)[:NUM_SHOTS]
    )
    rows = _table(lines)
    prompts = [f"{shots}Review: {row['sentence']}\nSentiment:" for row in rows]
    encoded = [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in prompts]
    labels = []
    for label in LABELS:
        *start, token = tokenizer.encode(f"{prompts[0]} {label}", add_special_tokens=False).ids
        if start != encoded[0]:
            sys.exit(f"{label!r} is not a single token behind the prompt")
        labels.append(token)
    gold = [LABELS.index(row["label"].lower()) for row in rows]
    _write(f"{folder}/classify.json", {"prompts": encoded, "labels": labels, "gold": gold})


def lmcli(bundle: str, threads: str, jobs_file: str, out: str) -> None:
    """One prompt at a time."""
    import numpy as np

    from lmcli.bundle.load import load_causal
    from lmcli.bundle.store import find_bundle, read_bundle
    from lmcli.engine.devices import Device
    from lmcli.engine.generation import GenerationConfig
    from lmcli.engine.search import Source

    found = read_bundle(find_bundle(bundle))
    device = Device("cpu", threads_each=int(threads))  # as the command has it for a lone prompt
    with load_causal(found, device, threads=int(threads), report=print) as model:

        def write(job: Job, tick: Callable[[], None]) -> None:
            config = GenerationConfig(eos_token_ids=(), max_new_tokens=job["new"])
            source = Source(np.array(job["ids"], np.int64), job["new"])
            model.generate([source], config, listen=lambda *_: tick())

        _write(out, [_moments(job, write) for job in _jobs(jobs_file)])


def batch(bundle: str, threads: str, jobs_file: str, out: str) -> None:
    """All prompts at once, after as many others: the seconds that they took."""
    import numpy as np

    from lmcli.bundle.load import load_causal
    from lmcli.bundle.store import find_bundle, read_bundle
    from lmcli.engine.devices import Device
    from lmcli.engine.generation import GenerationConfig
    from lmcli.engine.search import Source

    given = _jobs(jobs_file)
    found = read_bundle(find_bundle(bundle))
    with load_causal(found, Device("cpu"), threads=int(threads), report=print) as model:
        seconds = 0.0
        for new in (4, given[0]["new"]):
            ids = [np.array(job["ids"] if new > 4 else job["ids"][::-1], np.int64) for job in given]
            config = GenerationConfig(eos_token_ids=(), max_new_tokens=new)
            started = time.perf_counter()
            outputs = model.generate([Source(row, new) for row in ids], config)
            seconds = time.perf_counter() - started
            assert all(output[0].num_tokens == new for output in outputs), "an output ended early"
    _write(out, seconds)


def build(gguf: str, folder: str) -> None:
    """The weights as transformers' checkpoint (float32), and that as onnxruntime-genai's model in int4."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, checkpoint = Path(gguf), f"{folder}/checkpoint"
    AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(checkpoint)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", checkpoint, "-p", "int4"]
    options = ["-e", "cpu", "-c", f"{folder}/cache", "--extra_options", "int4_accuracy_level=4"]
    built = subprocess.run(
        [*command, "-o", f"{folder}/int4", *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if built.returncode:
        sys.exit(built.stderr.decode(errors="replace")[-2000:])


def genai(folder: str, threads: str, jobs_file: str, out: str) -> None:
    """onnxruntime-genai: one prompt at a time."""
    import onnxruntime_genai as og  # type: ignore[import-not-found, unused-ignore]

    config = og.Config(f"{folder}/int4")
    session = {"intra_op_num_threads": int(threads)}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": session}}}))
    model = og.Model(config)

    def write(job: Job, tick: Callable[[], None]) -> None:
        params, length = og.GeneratorParams(model), len(job["ids"]) + job["new"]
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(job["ids"])
        for _ in range(job["new"]):
            generator.generate_next_token()
            tick()

    _write(out, [_moments(job, write) for job in _jobs(jobs_file)])


def _moments(job: Job, write: Callable[[Job, Callable[[], None]], None]) -> list[float]:
    moments: list[float] = []
    started = time.perf_counter()
    write(job, lambda: moments.append(time.perf_counter() - started))
    return moments


def _jobs(path: str) -> list[Job]:
    found: list[Job] = json.loads(Path(path).read_text())
    return found


def _table(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def _write(path: str, value: object) -> None:
    Path(path).write_text(json.dumps(value))


if __name__ == "__main__":
    known = {function.__name__: function for function in (jobs, lmcli, batch, build, genai)}
    known[sys.argv[1]](*sys.argv[2:])
