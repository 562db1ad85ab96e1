"""`load_encoder`, `load_embedder`, `load_seq2seq`, `load_causal`: the engine for a bundle.

Apart from `store`: this imports ONNX Runtime.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from lmcli.bundle.store import Bundle, user_cache
from lmcli.engine.causal import Causal
from lmcli.engine.devices import Device
from lmcli.engine.embedder import Embedder
from lmcli.engine.encoder import Encoder
from lmcli.engine.prefixes import PrefixStore
from lmcli.engine.seq2seq import Seq2Seq
from lmcli.engine.session import Session, kernels
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import REBUILD, BundleError, UnavailableError, UsageError


def load_encoder(bundle: Bundle, device: Device, *, threads: int, report: Callable[[str], None]) -> Encoder:
    """Load graph and tokenizer side by side.

    `report` hears where the graph runs. Raises BundleError if a file is broken, UnavailableError if the
    bundle cannot run on `device`.
    """
    encoder = _load_encoder(bundle, "logits", device, threads=threads, report=report)
    num_labels = len(bundle.manifest.labels)
    per_text, per_token = (1, num_labels), (1, 1, num_labels)
    expected = per_text if bundle.manifest.task == "text-classification" else per_token
    if (shape := encoder.output_shape()) != expected:
        raise BundleError(
            f"{bundle.path}: the graph gives logits of shape {shape}, the labels want {expected}",
            hint=REBUILD,
        )
    return encoder


def load_embedder(bundle: Bundle, device: Device, *, threads: int, report: Callable[[str], None]) -> Embedder:
    """Load graph and tokenizer side by side; otherwise as `load_encoder`."""
    encoder = _load_encoder(bundle, "embeddings", device, threads=threads, report=report)
    if len(shape := encoder.output_shape()) != 2:
        raise BundleError(
            f"{bundle.path}: the graph gives embeddings of shape {shape}, not one for each row", hint=REBUILD
        )
    return Embedder(encoder)


def _load_encoder(
    bundle: Bundle, output: str, device: Device, *, threads: int, report: Callable[[str], None]
) -> Encoder:
    session, tokenizer = _open_model(bundle, device, report)
    _check_inputs(session, bundle)
    return Encoder(session, tokenizer, threads=threads, output=output)


def load_causal(
    bundle: Bundle,
    device: Device,
    *,
    threads: int,
    report: Callable[[str], None],
    prefixes: PrefixStore | None = None,
) -> Causal:
    """Load graph and tokenizer of a language model side by side; otherwise as `load_encoder`."""
    facts = bundle.manifest.causal
    assert facts is not None
    # Which tokens of a large vocabulary are control tokens takes 50 ms to find, and is kept then.
    session, tokenizer = _open_model(
        bundle, device, report, plans_memory=False, prepare=lambda tokenizer: tokenizer.control_tokens
    )
    return Causal(session, tokenizer, vocab_size=facts.vocab_size, threads=threads, prefixes=prefixes)


def prefix_store(bundle: Bundle) -> PrefixStore:
    """The prefixes of a bundle, of this ONNX Runtime and this kind of processor: others may round otherwise.

    Raises UsageError without a home directory.
    """
    place = user_cache()
    if place is None:
        raise UsageError("there is no home directory for --prefix-cache", hint="set LMCLI_HOME")
    facts = [f"{name} {facts.sha256}" for name, facts in sorted(bundle.manifest.files.items())]
    name = hashlib.sha256("\n".join([*facts, *kernels()]).encode()).hexdigest()[:32]
    return PrefixStore(place / "prefixes" / name)


def load_seq2seq(bundle: Bundle, device: Device, *, threads: int, report: Callable[[str], None]) -> Seq2Seq:
    """Load both graphs and the tokenizer side by side; otherwise as `load_encoder`."""
    manifest = bundle.manifest
    assert manifest.seq2seq is not None
    with ThreadPoolExecutor(2) as workers:
        encoder = workers.submit(_open_session, bundle, "encoder.onnx", device, report)
        decoder = workers.submit(_open_session, bundle, "decoder.onnx", device, lambda _: None)
        tokenizer = Tokenizer(bundle.file("tokenizer.json"), context_length=manifest.context_length)
        sessions = encoder.result(), decoder.result()
    _check_inputs(sessions[0], bundle)
    return Seq2Seq(*sessions, tokenizer, vocab_size=manifest.seq2seq.vocab_size, threads=threads)


def _open_model(
    bundle: Bundle,
    device: Device,
    report: Callable[[str], None],
    *,
    plans_memory: bool = True,
    prepare: Callable[[Tokenizer], object] = lambda _: None,
) -> tuple[Session, Tokenizer]:
    """The one graph of a bundle, and its tokenizer, side by side; the graph takes longer.

    `prepare` may use that time to make the tokenizer ready for more.
    """
    with ThreadPoolExecutor(1) as worker:
        opening = worker.submit(
            _open_session, bundle, "model.onnx", device, report, plans_memory=plans_memory
        )
        tokenizer = Tokenizer(bundle.file("tokenizer.json"), context_length=bundle.manifest.context_length)
        prepare(tokenizer)
        return opening.result(), tokenizer


def _check_inputs(session: Session, bundle: Bundle) -> None:
    if sorted(session.inputs) != sorted(bundle.manifest.inputs):
        raise BundleError(f"{bundle.path}: the graph takes {', '.join(session.inputs)}", hint=REBUILD)


def _open_session(
    bundle: Bundle,
    name: str,
    device: Device,
    report: Callable[[str], None],
    *,
    plans_memory: bool = True,
) -> Session:
    """`auto` is CUDA for bundles made for it, and falls back to the CPU."""
    path = bundle.file(name)
    if bundle.manifest.device == "cpu":
        if device.kind == "cuda":
            raise UnavailableError(
                f"{bundle.manifest.name} is a bundle for the CPU ({bundle.manifest.precision})",
                hint="export the model with `--device cuda`, or run this one with `--device cpu`",
            )
        return Session(path, replace(device, kind="cpu"), plans_memory=plans_memory)
    if device.kind == "auto":
        try:
            return Session(path, replace(device, kind="cuda"), plans_memory=plans_memory)
        except UnavailableError as error:
            report(f"running on the CPU: {error.message}")
            return Session(path, replace(device, kind="cpu"), plans_memory=plans_memory)
    return Session(path, device, plans_memory=plans_memory)
