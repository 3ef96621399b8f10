#!/usr/bin/env bash
# onnxruntime-genai writes a Llama without its scaling, and YaRN elsewhere with another ramp.
#
# One would guess: its model builder puts the rotation of the config into the ONNX graph's tables,
# or refuses, as it does for a Mistral of rope type "longrope" (NotImplementedError).
# What happens: for a Llama, every type but "llama3" is passed over without a word. Linear, YaRN and
# LongRoPE give the unscaled tables, as long as the extended window: the file seems to serve it. In
# other classes, YaRN's ramp keeps the fractions of its ends. transformers rounds them outwards
# unless the config says `truncate: false`, so that the tables are not those of the config.
#
# onnxruntime-genai 0.18.0, onnx-ir 1.1.0, transformers 5.23.0, torch 2.13.0, seen on
# 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile "onnxruntime-genai==0.18.0" "onnxruntime==1.32.0" \
    "onnx-ir==1.1.0" "transformers==5.23.0" "torch==2.13.0" numpy

cat > "$folder/seen.py" <<'PYTHON'
import contextlib
import sys
from importlib.metadata import version
from pathlib import Path

import onnx_ir
import torch
from onnxruntime_genai.models.builder import create_model, parse_extra_options
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

WINDOW, FACTOR = 4096, 4
SIZE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": FACTOR * WINDOW,
}
BASE = {"rope_theta": 10000.0}
EXTENDED = BASE | {"factor": float(FACTOR), "original_max_position_embeddings": WINDOW}
YARN = EXTENDED | {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
SETS = {"short_factor": [1.0] * 32, "long_factor": [4.0] * 32}
UNSCALED = BASE | {"rope_type": "default"}
words = Tokenizer(models.WordLevel({str(i): i for i in range(97)}, unk_token="0"))


def table(rope):
    """What transformers turns by, (positions, 32)."""
    rotary = LlamaRotaryEmbedding(LlamaConfig(**SIZE, rope_parameters=dict(rope)))
    return rotary(torch.zeros(1), torch.arange(FACTOR * WINDOW)[None])[0][0, :, :32]


def built(folder, config):
    """What the graph of the builder turns by."""
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "hf")
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="1").save_pretrained(folder / "hf")
    paths = (folder / "hf", folder / "onnx", folder / "cache")
    source, out, cache = map(str, paths)
    asked = ("", source, out, "fp32", "cpu", cache)
    with contextlib.redirect_stdout(sys.stderr):
        create_model(*asked, **parse_extra_options(*asked, []))
    graph = onnx_ir.load(folder / "onnx" / "model.onnx").graph
    return torch.from_numpy(graph.initializers["cos_cache"].const_value.numpy().copy())


def report(name, config, rope, **others):
    made = built(Path(sys.argv[1]) / name, config(**SIZE, rope_parameters=dict(rope)))
    for what, right in {"the config's": table(rope), **others}.items():
        off = (made - right).abs().max()
        print(f"{name}, {len(made)} positions, against {what}:", end=" ")
        print("the same" if off < 1e-3 else f"off by {off:.2f}")


print(*(f"{name} {version(name)}" for name in ("onnxruntime-genai", "transformers")))
for kind, rope in {
    "linear": BASE | {"rope_type": "linear", "factor": float(FACTOR)},
    "yarn": YARN,
    "longrope": EXTENDED | {"rope_type": "longrope"} | SETS,
}.items():
    report(f"Llama {kind}", LlamaConfig, rope, unscaled=table(UNSCALED))
report("Qwen2 yarn", Qwen2Config, YARN, untruncated=table(YARN | {"truncate": False}))
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" "$folder" 2> "$folder/said.txt" |
    tee "$folder/seen.txt" || { cat "$folder/said.txt"; exit 1; }
same() { grep -qx "$1, 16384 positions, against $2: the same" "$folder/seen.txt"; }
same "Llama linear" unscaled && same "Llama yarn" unscaled && same "Llama longrope" unscaled &&
    same "Qwen2 yarn" untruncated && ! same "Qwen2 yarn" "the config's" || {
    cat "$folder/said.txt"
    echo "the builder reads more of the scaling now: this finding is out of date"
    exit 1
}
