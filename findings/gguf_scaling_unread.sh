#!/usr/bin/env bash
# transformers reads a GGUF file without the scaling that is in it.
#
# One would guess: `from_pretrained(folder, gguf_file=...)` gives the model that llama.cpp runs, or
# refuses. A GGUF file states its scaling by keys (`llama.rope.scaling.type`, `.factor`) or, as
# files of Llama 3.1 do, by a tensor of factors, `rope_freqs.weight`.
# What happens: both are passed over without a word. The rotary embedding is unscaled, the logits are
# the same, to the bit, as of a file without them, and `max_position_embeddings` is the extended
# length: the model seems to have been trained on it.
#
# transformers 5.23.0, torch 2.13.0, gguf 0.19.0, seen on 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.23.0" "torch==2.13.0" "gguf==0.19.0" \
    "accelerate==1.15.0" numpy

cat > "$folder/seen.py" <<'PYTHON'
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers

WIDTH, HEADS, HIDDEN, WORDS = 64, 4, 96, 97
SHAPES = {
    "attn_norm": (WIDTH,),
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH, WIDTH),
    "attn_v": (WIDTH, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (HIDDEN, WIDTH),
    "ffn_up": (HIDDEN, WIDTH),
    "ffn_down": (WIDTH, HIDDEN),
}
folder = Path(sys.argv[1])


def written(name, scaling=None, factors=None):
    """A small Llama with random weights, 64 tokens of training and 256 of context."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(folder / name, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(WORDS)
    if scaling:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling)
        writer.add_rope_scaling_orig_ctx_len(64)
    shapes = {f"blk.0.{part}.weight": shape for part, shape in SHAPES.items()}
    shapes |= {"token_embd.weight": (WORDS, WIDTH), "output_norm.weight": (WIDTH,)}
    for tensor, shape in shapes.items():
        weight = 0.3 * random.standard_normal(shape, dtype=np.float32)
        writer.add_tensor(tensor, weight if len(shape) > 1 else np.ones(shape, np.float32))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.full(WIDTH // HEADS // 2, factors, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return name


def logits(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name).eval()
    config = model.config
    print(name, config.max_position_embeddings, config.rope_parameters["rope_type"])
    with torch.no_grad():
        return model(torch.arange(200)[None] % WORDS).logits


print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
plain = logits(written("plain.gguf"))
for name, scaled in {
    "scaled by keys": logits(written("keys.gguf", scaling=4.0)),
    "scaled by a tensor": logits(written("tensor.gguf", factors=4.0)),
}.items():
    print(f"{name}: {'the same' if torch.equal(plain, scaled) else 'other'} logits as unscaled")
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" "$folder" 2> "$folder/said.txt" |
    tee "$folder/seen.txt"
grep -qx "plain.gguf 256 default" "$folder/seen.txt"
grep -qx "scaled by keys: the same logits as unscaled" "$folder/seen.txt" &&
    grep -qx "scaled by a tensor: the same logits as unscaled" "$folder/seen.txt" || {
    cat "$folder/said.txt"
    echo "the scaling of a GGUF file is read now: this finding is out of date"
    exit 1
}
