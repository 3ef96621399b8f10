#!/usr/bin/env bash
# A model that is cast to bfloat16 turns long texts by other angles than one loaded in bfloat16.
#
# One would guess: `from_pretrained(folder, dtype=torch.bfloat16)` and
# `from_pretrained(folder).to(torch.bfloat16)` give the same model. Their weights are the same bits.
# What happens: loading keeps the rotary frequencies in float32, and `.to` rounds them to 8 bits.
# The error of an angle grows with the position, to 57 radians at 128k tokens: a long text is turned
# at random, while a short one looks right. Nobody needs to have written `.to`: the Trainer does it
# with `bf16_full_eval`, judges the rounded model, and leaves it so. Casting back mends nothing.
#
# transformers 5.23.0, torch 2.13.0, accelerate 1.15.0, seen on 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.23.0" "torch==2.13.0" "accelerate==1.15.0" numpy

cat > "$folder/seen.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainingArguments

WINDOW, FACTOR, LENGTH = 4096, 32, 2000
folder = sys.argv[1]
ids = torch.arange(LENGTH) * 7 % 97


def loaded(dtype):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def log_probs(model):
    return model(ids[None]).logits.float().log_softmax(-1)


def report(name, model):
    frequencies = model.model.rotary_emb.inv_freq
    off = (frequencies.float() - exact.model.rotary_emb.inv_freq).abs().max()
    print(f"{name}: {str(frequencies.dtype).removeprefix('torch.')},", end=" ")
    print(f"angles off by {off * (FACTOR * WINDOW - 1):.1f} at 128k tokens")


torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    max_position_embeddings=FACTOR * WINDOW,
    initializer_range=0.3,
    rope_parameters={
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": float(FACTOR),
        "original_max_position_embeddings": WINDOW,
    },
)
AutoModelForCausalLM.from_config(config).save_pretrained(folder)
print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
exact = loaded(torch.float32)
models = {"loaded": loaded(torch.bfloat16), "cast": loaded(torch.float32).to(torch.bfloat16)}
pairs = zip(*(model.parameters() for model in models.values()), strict=True)
print("weights:", "equal" if all(torch.equal(*pair) for pair in pairs) else "other")
for name, model in models.items():
    report(name, model)
    off = (log_probs(model) - log_probs(exact)).abs().max()
    print(f"{name}: log-probabilities off by at most {off:.1f} in {LENGTH} tokens")
judged = loaded(torch.float32)
arguments = TrainingArguments(folder, bf16_full_eval=True, use_cpu=True, report_to=[])
Trainer(judged, arguments, eval_dataset=[{"input_ids": ids, "labels": ids}]).evaluate()
report("judged by the Trainer, then cast back", judged.float())
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" "$folder/model" 2> "$folder/said.txt" |
    tee "$folder/seen.txt"
grep -qx "weights: equal" "$folder/seen.txt"
grep -qx "loaded: float32, angles off by 0.0 at 128k tokens" "$folder/seen.txt"
grep -qx "cast: bfloat16, angles off by 57.3 at 128k tokens" "$folder/seen.txt" &&
    grep -q "^judged by the Trainer, .*: float32, angles off by 57.3 " "$folder/seen.txt" || {
    cat "$folder/said.txt"
    echo "frequencies outlive a cast now: this finding is out of date"
    exit 1
}
