"""What a GGUF file says and transformers does not read: its rotary scaling, and how it splits text.

transformers takes the base of the rotary embedding from some architectures' files, and the scaling
from none: a model made for 128k tokens would be measured unscaled. Meanings of keys and tensors are
those of llama.cpp (``llama-hparams``, ``llama-graph``, ``llama-vocab``), which the format is by.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..common.checks import above
from ..common.files import Json
from ..rope.formulas import yarn_attention_factor, yarn_factors
from ..rope.scaling import RopeScaling
from ..rope.schedule import RopeSchedule, Scaling
from ..rope.spec import Floats, RopeSpec
from .config_fields import FULL_ATTENTION
from .gguf_header import GgufHeader, read_header
from .read_config import spec_from_config
from .write_config import config_with_scaling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# Keys of the rotary embedding that are read here, and those that must have their usual value.
READ = {
    "freq_base", "freq_base_swa", "dimension_count", "scale_linear", "scaling.type",
    "scaling.factor", "scaling.original_context_length", "scaling.attn_factor",
    "scaling.finetuned", "scaling.yarn_beta_fast", "scaling.yarn_beta_slow", "dimension_sections",
}  # fmt: skip
USUAL = {
    "scaling.yarn_ext_factor": (1.0, -1.0),
    "scaling.yarn_attn_factor": (1.0,),
    "scaling.yarn_log_multiplier": (0.0,),
    "scaling.alpha": (0.0, 1.0),
}

# Rope types that the keys of a file can replace.
REPLACED = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")

# The biases of a Qwen 2.
OF_QWEN2 = {"attn_q", "attn_k", "attn_v"}

# Tensors of factors: one set for all lengths, or one each for short and long texts.
ONE_SET, SHORT_SET, LONG_SET = (
    f"{name}.weight" for name in ("rope_freqs", "rope_factors_short", "rope_factors_long")
)

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
AFTER_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + AFTER_WORDS
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + AFTER_WORDS

# How texts are cut before merges, by the name of `tokenizer.ggml.pre`: one rule after another.
SPLITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "mpt", "olmo", "jais", "phi-2"), (GPT2,)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (r"\p{N}", GPT2)
    ),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
         "dbrx", "smaug-bpe"), (LLAMA3,)
    ),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), (QWEN2,)),
}  # fmt: skip

# Digits, capitals, spaces, line ends and marks, where these rules differ.
SAMPLE = "In 2024, it's 12345.67 of  CamelCase and I'LL\n\n  go; 東京 ²³ naïve\r\n don't-stop   "


# Keys without which a model's shape or window is a guess; and what norms add, under either name.
NEEDED = ("context_length", "embedding_length", "block_count", "attention.head_count")
NORMS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon")


@dataclass(frozen=True)
class GgufFile:
    """What a file says of its rotary embedding and of its tokenizer.

    Args:
        path: of the file.
        rope: keys of the rotary embedding, without architecture and ``rope.``.
        context: tokens that the file says the model takes.
        factors: tensors of rescale factors (d/2,) by name.
        tokenizer: its kind, llama.cpp's `tokenizer.ggml.model`.
        split: the name of its rule for cutting texts, `tokenizer.ggml.pre`.
        biases: names of the tensors of biases, in the first layer.
    """

    path: str
    rope: Json
    context: int | None
    factors: dict[str, Floats]
    tokenizer: str | None
    split: str | None
    biases: frozenset[str] = frozenset()


def read_gguf(path: str | os.PathLike[str]) -> GgufFile:
    """Read keys and factors; no weights.

    Raises:
        FileNotFoundError, ValueError: as of `read_header`.
    """
    return file_of(read_header(path))


def file_of(header: GgufHeader) -> GgufFile:
    """What a header says of rotary embedding and tokenizer."""
    prefix = f"{architecture_of(header)}."
    start = f"{prefix}rope."
    values = header.values
    needed = [NORMS[0]] if not any(prefix + key in values for key in NORMS) else []
    missing = [key for key in (*NEEDED, *needed) if prefix + key not in values]
    if missing:
        raise ValueError(
            f"{header.path} does not state {prefix}{missing[0]}, in whose place transformers would "
            "take a number of its own: convert the model again"
        )
    stated = values[f"{prefix}block_count"]
    if header.layers not in (0, stated):  # transformers would leave out those beyond
        raise ValueError(
            f"{header.path} holds {header.layers} layers, and states block_count {stated}: it was "
            "cut or edited; convert the model again"
        )
    return GgufFile(
        path=header.path,
        rope={k.removeprefix(start): v for k, v in values.items() if k.startswith(start)},
        context=values.get(f"{prefix}context_length"),
        factors={n: header.floats(n) for n in header.tensors if n.startswith("rope_")},
        tokenizer=values.get("tokenizer.ggml.model"),
        split=values.get("tokenizer.ggml.pre"),
        biases=frozenset(
            n.removeprefix("blk.0.").removesuffix(".bias")
            for n in header.tensors
            if n.startswith("blk.0.") and n.endswith(".bias")
        ),
    )


def architecture_of(header: GgufHeader) -> str:
    """The name of the graph that llama.cpp builds for a file.

    Raises:
        ValueError: it names none.
    """
    name = header.values.get("general.architecture")
    if not isinstance(name, str):
        raise ValueError(
            f"{header.path} names no general.architecture, so it holds no language model: take "
            "the file of one"
        )
    return name


def with_its_biases(config: PreTrainedConfig, file: GgufFile) -> PreTrainedConfig:
    """The config of a class that has the file's biases, which transformers' Llama leaves out.

    A Qwen 2 that is written as a "llama", whose graph in llama.cpp takes factors, is a Qwen 2.

    Raises:
        ValueError: no class has them.
    """
    if config.model_type != "llama" or not file.biases:
        return config
    if file.biases != OF_QWEN2:
        raise ValueError(
            f"{file.path} is of architecture 'llama' and has biases ({', '.join(file.biases)}) "
            "that transformers does not read from a GGUF file: take the model's folder with "
            "config.json and safetensors"
        )
    from transformers import Qwen2Config

    given = config.to_dict()
    fields = {n: given[n] for n in given if n not in ("model_type", "architectures")}
    return Qwen2Config(**fields)


def with_its_rotary(config: PreTrainedConfig, file: GgufFile) -> PreTrainedConfig:
    """The config that transformers made of a file, with the base and the scaling that it states.

    Raises:
        ValueError: the file states what is not understood here, or what contradicts the config.
    """
    text = config.get_text_config()
    before = getattr(text, "rope_parameters", None)
    if not before:
        return config
    check_keys(file)
    own = dict(before.get(FULL_ATTENTION, before))
    if own.get("rope_type", "default") not in REPLACED:
        if file.factors or "scaling.type" in file.rope:
            raise _refusal(file, f"a scaling over the rope type {own['rope_type']!r}")
        return config
    local = before.get("sliding_attention", {}).get("rope_theta")
    if file.rope.get("freq_base_swa", local) != local:
        raise _refusal(file, f"rope.freq_base_swa {file.rope['freq_base_swa']}, and not {local}")
    base = float(file.rope.get("freq_base", 10_000.0))  # llama.cpp's, where none is stated
    plain = {"rope_type": "default", "rope_theta": base}
    plain |= {k: own[k] for k in ("partial_rotary_factor",) if k in own}
    text.rope_parameters = before | {FULL_ATTENTION: plain} if FULL_ATTENTION in before else plain
    spec = spec_from_config(config)
    turned = file.rope.get("dimension_count", spec.rotary_dim)
    if turned != spec.rotary_dim:
        raise _refusal(file, f"{turned} rotated dimensions, where its config has {spec.rotary_dim}")
    scaling = scaling_of_file(file, spec)
    if scaling is None:
        return config
    text.max_position_embeddings = scaling.spec.window  # as long as nothing is scaled
    return config_with_scaling(config, scaling)


def scaling_of_file(file: GgufFile, plain: RopeSpec) -> Scaling | None:
    """The scaling that a file carries, relative to its base; None if it carries none.

    Args:
        file: as `read_gguf` gives it.
        plain: the embedding under the scaling; its window is the file's `context_length`.

    Raises:
        ValueError: the file says two things at once, or claims factors that it does not hold.
    """
    rope, context = file.rope, file.context or plain.window
    window = int(rope.get("scaling.original_context_length") or context)
    spec = RopeSpec(plain.rotary_dim, window, plain.base)
    factor = rope.get("scaling.factor") or rope.get("scale_linear") or 1.0
    kind = str(rope.get("scaling.type") or "linear")
    factor = 1.0 if kind == "none" else above("the file's scaling.factor", factor, 0)
    m = above("the file's scaling.attn_factor", rope.get("scaling.attn_factor") or 1.0, 0)
    if file.factors:
        if factor != 1 or kind == "yarn":
            raise _refusal(file, f"both a scaling ({kind}, {factor:g}) and tensors of factors")
        return _by_factors(file, spec, max(context, window), m)
    if kind == "longrope":
        raise _refusal(file, "the scaling 'longrope', and holds no factors for it")
    if kind not in ("none", "linear", "yarn"):
        raise _refusal(file, f"the scaling {kind!r}")
    if factor == 1 and m == 1:
        return None
    target = round(window * factor)
    if kind == "yarn":
        betas = tuple(rope.get(f"scaling.yarn_beta_{end}") for end in ("fast", "slow"))
        factors = yarn_factors(spec, factor, (float(betas[0] or 32), float(betas[1] or 1)))
        m *= yarn_attention_factor(factor)
        return RopeScaling(spec, factors, target, "yarn", attention_factor=m)
    factors = np.full(spec.rotary_dim // 2, factor)
    return RopeScaling(spec, factors, target, "pi", attention_factor=m)


def _by_factors(file: GgufFile, spec: RopeSpec, longest: int, m: float) -> Scaling:
    """One set of factors for all lengths, or one each for short and long texts."""
    names = set(file.factors)
    if names == {ONE_SET}:
        return RopeScaling(spec, file.factors[ONE_SET], longest, attention_factor=m)
    if names == {SHORT_SET, LONG_SET}:
        short = RopeScaling(spec, file.factors[SHORT_SET], spec.window, attention_factor=m)
        long = RopeScaling(spec, file.factors[LONG_SET], longest, attention_factor=m)
        if (short.factors == long.factors).all():  # Phi-3's graph takes one set in this form alone
            return long
        return RopeSchedule.by_length([short, long])
    raise _refusal(file, f"the tensors {', '.join(sorted(names))}")


def check_keys(file: GgufFile) -> None:
    """Refuse keys of the rotary embedding that are not known, or have a value that is not.

    Raises:
        ValueError: naming the first.
    """
    for name, value in file.rope.items():
        if name not in READ and value not in USUAL.get(name, ()):
            raise _refusal(file, f"rope.{name} {value}")


def _refusal(file: GgufFile, what: str) -> ValueError:
    return ValueError(
        f"{file.path} states {what}, and what its rotary embedding then does is not known here: "
        "take the model's folder with config.json and safetensors, or a file without it"
    )


def split_as_it_says(tokenizer: PreTrainedTokenizerBase, file: GgufFile) -> None:
    """Let a tokenizer cut texts as the file says, where transformers made it cut otherwise.

    Raises:
        ValueError: the rule has a name that is not known here.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if file.tokenizer != "gpt2" or backend is None:  # others state everything in their vocabulary
        return
    if file.split is None:
        log.warning(
            "%s does not say how its tokenizer cuts texts (tokenizer.ggml.pre): taken as GPT-2's",
            file.path,
        )
        return
    if file.split not in SPLITS:
        raise ValueError(
            f"{file.path} has a tokenizer that cuts texts by the rule {file.split!r}, which is not "
            f"known here; known are {', '.join(sorted(SPLITS))}: take the model's folder with "
            "tokenizer.json"
        )
    from tokenizers import Regex, pre_tokenizers

    rules = [pre_tokenizers.Split(Regex(rule), "isolated") for rule in SPLITS[file.split]]
    wanted = pre_tokenizers.Sequence(
        [*rules, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    now = backend.pre_tokenizer
    if now is None or now.pre_tokenize_str(SAMPLE) != wanted.pre_tokenize_str(SAMPLE):
        backend.pre_tokenizer = wanted
