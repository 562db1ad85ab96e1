"""`write_generator`: the export of an encoder-decoder that translates or summarizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from lmcli.bundle.manifest import Manifest, Seq2SeqFacts, Tier
from lmcli.engine.tokenizer import Tokenizer
from lmcli.export import config as configs
from lmcli.export import prove_generator
from lmcli.export.choice import CHOICE, CHOICE_PREFIX
from lmcli.export.conversion import Conversion
from lmcli.export.generation import generation_config
from lmcli.export.languages import languages, prompt
from lmcli.export.plain_seq2seq import build_plain_seq2seq, longest_source
from lmcli.export.prove_generator import Sample
from lmcli.export.seq2seq import build_seq2seq
from lmcli.export.seq2seq_shape import read_weights, shape_of
from lmcli.export.tokenizer import (
    context_length,
    load_source_tokenizer,
    num_positions,
    prove_seq2seq_tokenizer,
    write_tokenizer,
)

_CONTEXT_LENGTH = 1024


def write_generator(conversion: Conversion, name: str, directory: Path) -> Manifest:
    """Write both graphs and the tokenizer into `directory`, each proven; the manifest lacks its files."""
    model = configs.load_model(conversion.checkpoint, conversion.config, conversion.task)
    tokenizer, facts = _convert_tokenizer(conversion, model, directory / "tokenizer.json")
    encoder, decoder, tier = _build(conversion, model)
    inputs = tuple(item.name for item in encoder.graph.input)
    sample = Sample.take(facts, tokenizer, conversion.lines)
    exact = conversion.folder("exact")
    for graph, file in ((encoder, "encoder.onnx"), (decoder, "decoder.onnx")):
        conversion.save_exact(graph, f"exact/{file}")
        conversion.save(graph, directory / file, keep=[*CHOICE], keep_nodes=CHOICE_PREFIX)
    _prove(conversion, sample, model, exact, directory, tier)
    return Manifest(
        name=name,
        task=conversion.task,
        model_type=model.config.model_type,
        tier=tier,
        precision=conversion.precision,
        device=conversion.options.device,
        context_length=tokenizer.context_length,
        inputs=inputs,
        seq2seq=facts,
        source=conversion.provenance(),
        proof=conversion.proof,
    )


def _convert_tokenizer(conversion: Conversion, model: Any, path: Path) -> tuple[Tokenizer, Seq2SeqFacts]:
    checkpoint, config = conversion.checkpoint, conversion.config
    source = load_source_tokenizer(checkpoint, config, conversion.folder("tokenizer"))
    # The two halves of a pair have configurations of their own.
    reads, writes = (getattr(model.config, side, model.config) for side in ("encoder", "decoder"))
    length = context_length(source, reads, conversion.options.context_length or _CONTEXT_LENGTH)
    length = min(length, longest_source(model.config) or length)
    write_tokenizer(source, path, keep_language=conversion.task != "translation")
    tokenizer = Tokenizer(path, context_length=length)
    from_, to = languages(checkpoint, config, source) if conversion.task == "translation" else ({}, {})
    conversion.proof["tokenizer"] = prove_seq2seq_tokenizer(source, tokenizer, from_, to, conversion.lines)
    conversion.report(f"tokenizer: equal to the source on {len(conversion.lines)} lines")
    generation, left_out = generation_config(
        checkpoint,
        config,
        conversion.task,
        max_positions=num_positions(writes),
    )
    if left_out:
        conversion.report(f"left out of its generation settings, unknown to lmcli: {', '.join(left_out)}")
    facts = Seq2SeqFacts(
        generation=generation,
        vocab_size=model.get_output_embeddings().weight.shape[0],
        prompt=prompt(config) if conversion.task == "summarization" else "",
        source_languages=from_,
        target_languages=to,
    )
    return tokenizer, facts


def _build(conversion: Conversion, model: Any) -> tuple[onnx.ModelProto, onnx.ModelProto, Tier]:
    shape = shape_of(model.config)
    if shape is None:
        return *build_plain_seq2seq(model, scratch=conversion.folder("plain")), "plain"
    in_place = conversion.options.device == "cpu"
    return *build_seq2seq(read_weights(model), shape, in_place=in_place), "fast"


def _prove(
    conversion: Conversion, sample: Sample, model: Any, exact: Path, directory: Path, tier: Tier
) -> None:
    """The float32 graphs against torch, the wanted precision against them, and in a batch against alone."""
    proof, report = conversion.proof, conversion.report
    with sample.open(exact) as engine:
        outputs = sample.outputs(engine)
        logits = sample.logits(engine, outputs)
        proof["graph"] = facts = prove_generator.prove_graph(model, sample, outputs, logits)
        report(f"graph: within {facts['max_difference']:.1e} of torch on {facts['tokens']} tokens")
        with sample.open(directory) as written:
            if conversion.precision != "fp32":
                both = sample.logits(engine, outputs), sample.logits(written, outputs)
                proof["precision"] = facts = prove_generator.prove_precision(*both)
                report(f"{conversion.precision}: {facts['agreement']:.1%} of clear decisions as in float32")
            tolerance = conversion.batch_tolerance(tier)
            batch = prove_generator.prove_batches(sample, written, outputs, tolerance=tolerance)
            proof["batch"] = batch
            report(f"batches: within {batch['max_difference']:.1e} of single lines")
