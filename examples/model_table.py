"""Compares every causal model type of transformers with this package, on small random models.

python examples/model_table.py docs/models.md   # writes the table there, in two minutes
python examples/model_table.py llama gemma3     # prints what it finds of some

Of each type a model of a few layers is made. Compared are what is read of its config and of the
live model, its logits as they are and under "none", token losses, YaRN against transformers' own
model with YaRN in its config, and the logits after the scaling was taken away.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import longrope_lab as lab
from longrope_lab.common.markup import print_or_put
from longrope_lab.models.config_fields import FULL_ATTENTION
from longrope_lab.models.write_config import config_with_scaling

WINDOW = 64
RATIO = 4
IDS = torch.randint(9, 97, (1, 3 * WINDOW // 4), generator=torch.Generator().manual_seed(0))

# Between these the tables stand in docs/models.md.
BEGIN, END = "<!-- by examples/model_table.py -->\n\n", "<!-- end -->"

# Weights of a small model.
LARGEST = 35_000_000

# Differences allowed, as shares of the largest logit: transformers' angles are float32.
TOLERANCE = 5e-5

# Fields of configs, as small as models go; each class takes those that it has.
SMALL: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": WINDOW,
    "sliding_window": 16, "attention_chunk_size": 16, "moe_intermediate_size": 32,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 32, "n_group": 1, "topk_group": 1, "kv_lora_rank": 16,
    "q_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "first_k_dense_replace": 1, "is_decoder": True, "initializer_range": 0.1,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "mamba_chunk_size": 16, "mamba_n_heads": 8, "mamba_d_head": 16,
    "mamba_d_ssm": 128, "mamba_d_state": 16, "chunk_size": 16, "n_shared_experts": 1,
    "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "global_head_dim": 32,
}  # fmt: skip

# The same for the part that sees.
SMALL_SIGHT: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "depth": 1, "num_heads": 2, "out_hidden_size": 64, "image_size": 28, "patch_size": 14,
}  # fmt: skip

# What some classes want: a layer of each kind, or as many heads as DeepSeek's attention has.
OWN: dict[str, dict[str, Any]] = {
    "gemma3_text": {"num_hidden_layers": 6},
    "bailing_hybrid": {"num_hidden_layers": 8},
    "mimo_v2_flash": {"head_dim": 96},
    "bamba": {"attn_layer_indices": [1, 3]},
    "gemma4_text": {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 16},
    "codegen": {"rotary_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "plbart": {"decoder_attention_heads": 4, "encoder_attention_heads": 4},
    "whisper": {"decoder_attention_heads": 4, "encoder_attention_heads": 4},
    "gptj": {"rotary_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "reformer": {"axial_pos_embds": False},
}


@dataclass
class Row:
    """What was found of one type.

    Args:
        kind: transformers' name of the type.
        outcome: "right", "refused", "wrong" (a difference, or an error of another kind), or "not
            made".
        differences: of each comparison, as a share of the largest logit.
        exports: the rope type in which its config holds YaRN, or "".
        why: of a refusal or a fault.
    """

    kind: str
    outcome: str = "right"
    differences: dict[str, float] = field(default_factory=dict)
    exports: str = ""
    why: str = ""

    def add(self, name: str, ours: torch.Tensor, stock: torch.Tensor) -> None:
        """Note a difference, and whether it is too large."""
        off = float((ours - stock).abs().max() / stock.abs().max())
        self.differences[name] = off
        if not off <= TOLERANCE:
            self.outcome, self.why = "wrong", f"{name} is off by {off:.2g}"


def small_config(kind: str) -> Any:
    """A config of a type, small in every field that its class has."""
    default = transformers.CONFIG_MAPPING[kind]()
    own: dict[str, Any] = {}
    if getattr(default, "text_config", None) is not None:
        own["text_config"] = small_config(default.text_config.model_type).to_dict()
        if getattr(default, "vision_config", None) is not None:
            sight = default.vision_config.to_dict()
            own["vision_config"] = sight | {k: v for k, v in SMALL_SIGHT.items() if k in sight}
    else:
        known = {*default.to_dict(), *default.attribute_map}
        own |= {k: v for k, v in SMALL.items() if k in known}
        if "kv_lora_rank" in known:  # each head has keys of its own
            own["num_key_value_heads"] = SMALL["num_attention_heads"]
    return type(default)(**own | OWN.get(kind, {}))


def small_model(config: Any) -> Any:
    """A random model, the same for all rope parameters."""
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if count > LARGEST:
        raise ValueError(f"{count:,} weights: more of its fields have to be small")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@torch.no_grad()
def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Logits (1, T, V), float32."""
    return model(input_ids=ids, use_cache=False).logits.float()


def compare(kind: str) -> Row:
    """All comparisons of one type."""
    row = Row(kind)
    try:
        config = small_config(kind)
        model = small_model(config)
        stock = logits(model)
    except Exception as error:
        return Row(kind, "not made", why=f"{type(error).__name__}: {error}")
    try:
        _compare_losses(row, model, stock)
        spec = lab.rope_spec(model)
        _compare_readers(row, config, spec)
        with lab.apply_scaling(model, lab.rope_scaling(spec, "none", spec.window)):
            row.add("none", logits(model), stock)
        _compare_yarn(row, model, config, spec, stock)
        row.add("restored", logits(model), stock)
    except ValueError as error:
        row.outcome, row.why = "refused", str(error)
    except Exception as error:
        row.outcome, row.why = "wrong", f"{type(error).__name__}: {error}"
    return row


def _compare_losses(row: Row, model: Any, stock: torch.Tensor) -> None:
    losses = lab.token_losses(model, IDS[0])
    row.add("losses", losses, cross_entropy(stock[0, :-1], IDS[0, 1:], reduction="none"))


def _compare_readers(row: Row, config: Any, spec: lab.RopeSpec) -> None:
    """What the config says and what the live model does, on short inputs."""
    scaling = lab.scaling_from_config(config).at(1)
    m = scaling.spec.attention_factor * scaling.attention_factor
    same = scaling.frequencies.shape == spec.frequencies.shape and np.allclose(
        [*scaling.frequencies, m], [*spec.frequencies, spec.attention_factor], rtol=1e-6
    )
    if not same:
        row.outcome, row.why = "wrong", f"config {scaling}, model {spec}"


def _compare_yarn(row: Row, model: Any, config: Any, spec: lab.RopeSpec, stock: Any) -> None:
    """Against transformers' own, where the config's class takes the type."""
    scaling = lab.rope_scaling(spec, "yarn", RATIO * spec.window)
    with lab.apply_scaling(model, scaling):
        ours = logits(model)
    if (ours - stock).abs().max() <= 1e-4 * stock.abs().max():
        row.outcome, row.why = "wrong", "YaRN changes nothing"
    try:
        written = config_with_scaling(config, scaling)
    except ValueError as error:
        row.exports = f"refused: {error}"
        return
    text = written.get_text_config().rope_parameters
    row.exports = text.get(FULL_ATTENTION, text)["rope_type"]
    theirs = small_model(written)
    theirs.load_state_dict(model.state_dict())
    row.add("YaRN", ours, logits(theirs))


def page(rows: Iterable[Row]) -> str:
    """The rows as tables in Markdown: what is right, and the others by reason."""
    rows = sorted(rows, key=lambda row: row.kind)
    right = [row for row in rows if row.outcome == "right"]
    counts = Counter(row.outcome for row in rows)
    found = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    lines = [f"transformers {transformers.__version__}, {len(rows)} types: {found}.", ""]
    lines += [
        "| type | largest difference | of | YaRN is written as |",
        "| --- | --- | --- | --- |",
    ]
    for row in right:
        name = max(row.differences, key=row.differences.__getitem__)
        written = f"`{row.exports}`" if row.exports.isalnum() else row.exports
        lines.append(f"| `{row.kind}` | {row.differences[name]:.0e} | {name} | {written} |")
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.outcome != "right":
            reason = row.why.splitlines()[0].partition(": context extension needs")[0]
            reason = re.sub(r"^\w+(ForCausalLM|LMHeadModel|ModelWithLMHead|Decoder)", "it", reason)
            reasons[f"{row.outcome}: {reason}"].append(f"`{row.kind}`")
    lines += ["", "| types | outcome |", "| --- | --- |"]
    lines += [f"| {', '.join(kinds)} | {reason} |" for reason, kinds in sorted(reasons.items())]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """All types into a file, or some of them onto the screen."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    files = [Path(name) for name in arguments if name.endswith(".md")]
    kinds = [name for name in arguments if not name.endswith(".md")]
    text = page(map(compare, kinds or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    print_or_put(text, files, BEGIN, END)


if __name__ == "__main__":
    main(sys.argv[1:])
