#!/usr/bin/env bash
# A model with dynamic NTK scaling gives a text other logits after it has read a longer one.
#
# One would guess: a forward pass without a cache depends on the weights and its tokens alone, and
# rope type "dynamic" takes its base from the length of the text at hand.
# What happens: the rotary module keeps the base of the longest text so far. A shorter one, even of
# exactly the trained window, is turned by that base; only one *below* the window resets it. So a
# table of perplexities depends on the order of its rows: from the longest length down, all rows
# from the window on are measured with the longest's base. A second evaluation differs from the
# first.
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
from transformers import LlamaConfig, LlamaForCausalLM

WINDOW = 64
config = LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=WINDOW,
    initializer_range=0.3,
    rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
)


@torch.no_grad()
def logits(model, length):
    return model(torch.arange(length)[None] * 7 % 97, use_cache=False).logits


print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval()
for length in (WINDOW - 1, WINDOW, WINDOW + 16):
    logits(model, 8)  # shorter than the window: the base begins anew
    alone = logits(model, length)
    logits(model, 4 * WINDOW)
    off = (logits(model, length) - alone).abs().max()
    said = "the same" if off < 1e-3 else f"off by {off:.1f}"
    print(f"{length} tokens after {4 * WINDOW}: {said}")
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" 2> "$folder/said.txt" | tee "$folder/seen.txt"
grep -qx "63 tokens after 256: the same" "$folder/seen.txt"
grep -q "^64 tokens after 256: off by " "$folder/seen.txt" &&
    grep -q "^80 tokens after 256: off by " "$folder/seen.txt" || {
    cat "$folder/said.txt"
    echo "the base follows each text now: this finding is out of date"
    exit 1
}
