#!/usr/bin/env bash
# A jump in position_ids hides all the text before it, unless an attention mask of ones is passed.
#
# One would guess: position_ids say where tokens are turned, so a gap in them makes what lies before
# it further away, and nothing else. Training with positions that skip (PoSE, arXiv 2309.10400) rests
# on that. An attention mask of ones says what no mask says.
# What happens: without a mask and a cache, transformers takes every step other than 1 as the
# beginning of another text of a packed row, and masks what comes before. So the size of the gap
# makes no difference at all, and a model trained so learns no distance beyond its parts. With a
# mask of ones the tokens after the gap see the text before it, and the gap counts.
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

HALF = 32
config = LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=1024,
    initializer_range=0.3,
)
print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval()
ids = torch.arange(2 * HALF)[None] * 7 % 97


@torch.no_grad()
def logits(gap, **mask):
    positions = torch.arange(2 * HALF)[None].clone()
    positions[0, HALF:] += gap
    return model(ids, position_ids=positions, use_cache=False, **mask).logits[0, HALF:]


def compared(one, other):
    # Angles are float32: at position 900 they are rounded to 6e-5 of a radian.
    off = (one - other).abs().max()
    return "the same" if off < 0.01 else f"off by {off:.1f}"


with torch.no_grad():
    alone = model(ids[:, HALF:], use_cache=False).logits[0]
ones = {"attention_mask": torch.ones_like(ids)}
print("no gap, with and without a mask of ones:", compared(logits(0), logits(0, **ones)))
print("gaps of 100 and 900, no mask:", compared(logits(100), logits(900)))
print("gap of 900, no mask, and the second half alone:", compared(logits(900), alone))
print("gaps of 100 and 900, a mask of ones:", compared(logits(100, **ones), logits(900, **ones)))
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" 2> "$folder/said.txt" | tee "$folder/seen.txt"
grep -qx "no gap, with and without a mask of ones: the same" "$folder/seen.txt"
grep -qx "gaps of 100 and 900, no mask: the same" "$folder/seen.txt" &&
    grep -qx "gap of 900, no mask, and the second half alone: the same" "$folder/seen.txt" &&
    grep -q "^gaps of 100 and 900, a mask of ones: off by " "$folder/seen.txt" || {
    cat "$folder/said.txt"
    echo "a gap is a distance now: this finding is out of date"
    exit 1
}
