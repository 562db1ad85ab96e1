"""`load_encoder`, `load_seq2seq`: the engine for a bundle. Apart from `store`: this imports ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from lmcli.bundle.store import Bundle
from lmcli.engine.devices import Device
from lmcli.engine.encoder import Encoder
from lmcli.engine.seq2seq import Seq2Seq
from lmcli.engine.session import Session
from lmcli.engine.tokenizer import Tokenizer
from lmcli.errors import REBUILD, BundleError, UnavailableError


def load_encoder(bundle: Bundle, device: Device, *, threads: int, report: Callable[[str], None]) -> Encoder:
    """Load graph and tokenizer side by side.

    `report` hears where the graph runs. Raises BundleError if a file is broken, UnavailableError if the
    bundle cannot run on `device`.
    """
    with ThreadPoolExecutor(1) as worker:
        opening = worker.submit(_open_session, bundle, "model.onnx", device, report)
        tokenizer = Tokenizer(bundle.file("tokenizer.json"), context_length=bundle.manifest.context_length)
        session = opening.result()
    _check_inputs(session, bundle)
    encoder = Encoder(session, tokenizer, threads=threads)
    _check_fits(encoder, bundle)
    return encoder


def _check_fits(encoder: Encoder, bundle: Bundle) -> None:
    """Run one token: the graph must answer with a score for each label of the manifest."""
    num_labels = len(bundle.manifest.labels)
    shape = encoder.logits_shape()
    expected = (1, num_labels) if bundle.manifest.task == "text-classification" else (1, 1, num_labels)
    if shape != expected:
        raise BundleError(
            f"{bundle.path}: the graph gives logits of shape {shape}, the labels want {expected}",
            hint=REBUILD,
        )


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


def _check_inputs(session: Session, bundle: Bundle) -> None:
    if sorted(session.inputs) != sorted(bundle.manifest.inputs):
        raise BundleError(f"{bundle.path}: the graph takes {', '.join(session.inputs)}", hint=REBUILD)


def _open_session(bundle: Bundle, name: str, device: Device, report: Callable[[str], None]) -> Session:
    """`auto` is CUDA for bundles made for it, and falls back to the CPU."""
    path = bundle.file(name)
    if bundle.manifest.device == "cpu":
        if device.kind == "cuda":
            raise UnavailableError(
                f"{bundle.manifest.name} is a bundle for the CPU ({bundle.manifest.precision})",
                hint="export the model with `--device cuda`, or run this one with `--device cpu`",
            )
        return Session(path, Device("cpu"))
    if device.kind == "auto":
        try:
            return Session(path, Device("cuda"))
        except UnavailableError as error:
            report(f"running on the CPU: {error.message}")
            return Session(path, Device("cpu"))
    return Session(path, device)
