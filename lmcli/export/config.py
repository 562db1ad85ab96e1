"""From config.json and weights to a torch model, with nothing in them able to make transformers run code.

`load_config` and `sanitize` give the plain facts, `labels`, `is_multi_label` and `task_of` read them, and
`load_model` builds the model from them. transformers never sees the checkpoint, only a configuration object
made of known keys and a dict of tensors.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lmcli.bundle.manifest import Task
from lmcli.errors import ExportError
from lmcli.export.causal_shape import FAMILY
from lmcli.export.encoder import FAMILIES
from lmcli.export.files import CONFIG_NAME
from lmcli.export.packages import TRACING, require
from lmcli.export.source import Checkpoint
from lmcli.export.weights import read_json, read_weights, rejected

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Config = dict[str, Any]

LABEL_LIMIT = 100_000

# They are exported from their weights alone: whether transformers has them need not be asked.
_KNOWN_TYPES = FAMILY | FAMILIES.keys()

_SUFFIXES: Mapping[str, Task] = {
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
# What the published encoder-decoders of an architecture were trained for; T5's for both, see `task_of`.
_SEQ2SEQ: Mapping[str, Task] = {
    "bart": "summarization",
    "bigbird_pegasus": "summarization",
    "longt5": "summarization",
    "m2m_100": "translation",
    "marian": "translation",
    "mbart": "translation",
    "pegasus": "summarization",
}
# Keys that pull in code or other repositories (CVE-2026-4372, CVE-2026-5241), and what the export decides.
_DROPPED = re.compile(
    r"_.*|.*_class|auto_map|attn_implementation|custom_pipelines|trust_remote_code|name_or_path"
    r"|transformers_weights|quantization_config|(torch_)?dtype|torchscript|return_dict|label2id"
    r"|output_(attentions|hidden_states)",
    re.DOTALL,
)


def load_config(checkpoint: Checkpoint) -> Config:
    """The content of config.json, as it is. Raises ExportError when it is not one JSON object."""
    return read_json(checkpoint.files[CONFIG_NAME])


def sanitize(config: Config) -> Config:
    """The facts of `config`, nested ones too, without any that can load code.

    Raises ExportError for an architecture that transformers does not have, and for quantized weights;
    UnavailableError where only transformers could tell, and is not installed.
    """
    _check_architecture(config.get("model_type"))
    try:
        clean: Config = _clean(config)
    except RecursionError as error:
        raise ExportError("config.json is nested too deeply") from error
    return clean


def _check_architecture(model_type: object) -> None:
    if isinstance(model_type, str) and model_type in _KNOWN_TYPES:
        return
    require(*TRACING)
    import transformers

    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise ExportError(
            f"the architecture {model_type!r} is not part of transformers {transformers.__version__}",
            hint="the code that comes with a model is never run",
        )


def _clean(value: Any) -> Any:
    match value:
        case {"quantization_config": quantized} if quantized is not None:
            raise ExportError(
                "the weights of the checkpoint are quantized already",
                hint="export the model it was made from; lmcli quantizes by itself",
            )
        case dict():
            return {key: _clean(inner) for key, inner in value.items() if not _DROPPED.fullmatch(key)}
        case list():
            return [_clean(inner) for inner in value]
        case _:
            return value


def labels(config: Config) -> tuple[str, ...]:
    """The label names by id; LABEL_0, LABEL_1 ... where the configuration does not name every one.

    Raises ExportError when it says no sane number of them.
    """
    table = config.get("id2label")
    if isinstance(table, dict) and table:
        names = [table.get(str(i)) for i in range(len(table))]
        if all(isinstance(name, str | int | float) for name in names):
            return tuple(map(str, names))
        return _numbered(len(table))
    return _numbered(config.get("num_labels", 2))


def _numbered(count: object) -> tuple[str, ...]:
    if type(count) is not int or not 1 <= count <= LABEL_LIMIT:
        raise ExportError(f"config.json: num_labels is {count!r}, not a number from 1 to {LABEL_LIMIT}")
    return tuple(f"LABEL_{i}" for i in range(count))


def is_multi_label(config: Config) -> bool:
    """Is each label judged by itself?"""
    return config.get("problem_type") == "multi_label_classification"


def task_of(config: Config) -> Task | None:
    """The task that the checkpoint was trained for, by its architecture, or by the parameters it has for one.

    None where that is unknown, or where it is more than one.
    """
    for architecture in _architectures(config):
        for suffix, task in _SUFFIXES.items():
            if architecture.endswith(suffix):
                return task
        if architecture.endswith(("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")):
            return _SEQ2SEQ.get(str(config.get("model_type"))) or _task_with_parameters(config)
    return None


def task_parameters(config: Config) -> Mapping[str, Mapping[str, Any]]:
    """What config.json says for single tasks: `summarization`, `translation_en_to_de` and others."""
    found = config.get("task_specific_params")
    found = found if isinstance(found, dict) else {}
    return {name: facts for name, facts in found.items() if isinstance(facts, dict)}


def _task_with_parameters(config: Config) -> Task | None:
    tasks: set[Task] = set()
    for name in task_parameters(config):
        if name.startswith("translation"):
            tasks.add("translation")
        elif name == "summarization":
            tasks.add("summarization")
    return tasks.pop() if len(tasks) == 1 else None


def _architectures(config: Config) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def load_model(checkpoint: Checkpoint, config: Config, task: Task) -> PreTrainedModel:
    """Build the model of a sanitized `config` for `task`, with the weights of `checkpoint`, in float32.

    Raises ExportError when transformers cannot build it, or when weights are missing or do not fit.
    """
    import torch

    model_class = _model_class(config, task)
    settings = _settings(config, model_class)
    state = read_weights(checkpoint)
    try:
        model, found = model_class.from_pretrained(
            None,
            config=settings,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # the code of hundreds of architectures, on values from anywhere
        raise rejected("the weights do not fit config.json", error) from error
    missing = found["missing_keys"]
    if task == "feature-extraction":  # the pooler of BERT is not what pools there
        missing = [f"{model.base_model_prefix}.{key}" for key in missing if not key.startswith("pooler.")]
    _check_complete(missing, model.base_model_prefix)
    _check_fits(found["unexpected_keys"], model.base_model_prefix)
    return model.eval()


def _model_class(config: Config, task: Task) -> type[PreTrainedModel]:
    import transformers

    mapping = {
        "text-classification": transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        "token-classification": transformers.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        "translation": transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        "summarization": transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
        "text-generation": transformers.MODEL_FOR_CAUSAL_LM_MAPPING,
        "feature-extraction": transformers.MODEL_MAPPING,
    }[task]
    for name in _architectures(config):
        if not hasattr(transformers, name):
            raise ExportError(
                f"the architecture {name} is not part of transformers {transformers.__version__}",
                hint="the code that comes with a model is never run",
            )
    config_class = transformers.CONFIG_MAPPING[config["model_type"]]
    if config_class not in mapping:
        raise ExportError(f"transformers has no {config['model_type']} model for {task}")
    found: type[PreTrainedModel] = mapping[config_class]
    return found


def _settings(config: Config, model_class: type[PreTrainedModel]) -> PretrainedConfig:
    """The configuration object of `config`, from the keys that its architecture knows."""
    names = labels(config)
    config_class = model_class.config_class
    known = _known_keys(config_class, model_class)
    kept = {key: value for key, value in config.items() if key in known}
    kept["id2label"] = dict(enumerate(names))
    kept["label2id"] = {name: i for i, name in enumerate(names)}
    kept["num_labels"] = len(names)
    try:
        return config_class(**kept)
    except Exception as error:  # see load_model
        raise rejected(f"config.json makes no {config_class.__name__}", error) from error


def _known_keys(config_class: type[PretrainedConfig], model_class: type[PreTrainedModel]) -> set[str]:
    """The parameters of the configuration, their other names, and what the code of the model reads besides.

    DeBERTa, for one, reads `position_buckets` and `norm_rel_ebd`, which are no parameters.
    """
    from transformers import PretrainedConfig

    known = set(config_class.attribute_map)
    for configuration in (PretrainedConfig, config_class):
        known.update(inspect.signature(configuration).parameters)
    for each in (config_class, model_class):
        known.update(_READ.findall(inspect.getsource(sys.modules[each.__module__])))
    return known


_READ = re.compile(r'(?:config\.|config, "|kwargs\.(?:get|pop)\(")(\w+)')


def _check_complete(missing: list[str], base: str) -> None:
    """Raises ExportError when trained weights are missing."""
    # A table of positions is made with the model.
    untrained = sorted(key for key in missing if not key.endswith("position_ids"))
    if not untrained:
        return
    listed = ", ".join(untrained[:4]) + (", ..." if len(untrained) > 4 else "")
    if any(key.startswith(f"{base}.") for key in untrained):
        raise ExportError(f"the checkpoint lacks weights of the model: {listed}")
    raise ExportError(
        f"the checkpoint has no trained classifier head: {listed} missing",
        hint="export a model that was fine-tuned for the task",
    )


def _check_fits(unexpected: list[str], base: str) -> None:
    """Raises ExportError when the body has weights without a place: then config.json describes another one.

    Heads of other tasks and poolers are left out on purpose.
    """
    body = sorted(
        key
        for key in unexpected
        if key.startswith(f"{base}.") and not key.endswith("position_ids") and ".pooler." not in key
    )
    if body:
        listed = ", ".join(body[:4]) + (", ..." if len(body) > 4 else "")
        raise ExportError(
            f"the checkpoint has weights that its config.json has no place for: {listed}",
            hint="get the checkpoint again: its files belong to different models",
        )
