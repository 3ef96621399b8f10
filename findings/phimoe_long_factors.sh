#!/usr/bin/env bash
# PhiMoE's long factors are never used.
#
# One would guess: with rope type "longrope", an input longer than original_max_position_embeddings
# is turned by `long_factor`, a shorter one by `short_factor`. Phi-3.5-MoE was trained and released
# so, and a Llama with the same rope parameters does it.
# What happens: PhiMoE's rotary module computes its frequencies anew in each call, without the
# length, and so by `short_factor` always. Only the attention factor changes to `long_mscale`.
# In the released model the two lists differ, so that texts beyond 4,096 tokens are turned wrongly.
#
# transformers 5.23.0, torch 2.13.0, seen on 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.23.0" "torch==2.13.0" numpy

cat > "$folder/seen.py" <<'PYTHON'
import torch
import transformers
from transformers import LlamaConfig, PhimoeConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phimoe.modeling_phimoe import PhimoeRotaryEmbedding

WINDOW = 64
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": WINDOW,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}
SIZE = {"hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": 4 * WINDOW}


def angle(module, length):
    """Of the fastest pair at position 1, in an input of so many tokens."""
    cos, sin = module(torch.zeros(1), torch.tensor([[1, length - 1]]))
    return round(float(torch.atan2(sin, cos)[0, 0, 0]), 3)


mscales = {"short_mscale": 1.0, "long_mscale": 1.0}
llama = LlamaRotaryEmbedding(LlamaConfig(**SIZE, rope_parameters=dict(ROPE)))
phimoe = PhimoeRotaryEmbedding(PhimoeConfig(**SIZE, rope_parameters=ROPE | mscales))
print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
for name, module in (("Llama", llama), ("PhiMoE", phimoe)):
    angles = [angle(module, length) for length in (WINDOW, WINDOW + 1)]
    print(f"{name}: angle {angles[0]} with 64 tokens, {angles[1]} with 65")
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" 2> /dev/null | tee "$folder/seen.txt"
grep -qx "Llama: angle 1.0 with 64 tokens, 0.25 with 65" "$folder/seen.txt"
grep -qx "PhiMoE: angle 1.0 with 64 tokens, 1.0 with 65" "$folder/seen.txt" || {
    echo "PhiMoE's long factors are used now: this finding is out of date"
    exit 1
}
