#!/usr/bin/env bash
# A Llama that generates across its trained window meets keys turned by the other factors.
#
# One would guess: with rope type "longrope", the logits of generation are those of one forward pass
# over the same tokens, with a cache or without. Of Phi-3, for which transformers has this type, it
# is true: its class throws the cache away when the text outgrows the window.
# What happens: a Llama keeps it. Each token beyond the window is turned by `long_factor`, and the
# cached keys before it by `short_factor`. Nothing is said. Greedy generation gives other tokens
# from there on. Perplexity, which is one forward pass, shows none of it.
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
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

WINDOW, PROMPT, NEW = 64, 60, 30
ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": WINDOW,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
}
SIZE = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4 * WINDOW,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "eos_token_id": None,
}


@torch.no_grad()
def seen(name, model):
    """Generation token by token beside one forward pass, and beside generation without a cache."""
    prompt = torch.arange(PROMPT)[None] * 7 % 97
    asked = {"max_new_tokens": NEW, "do_sample": False}
    made = model.generate(prompt, output_logits=True, return_dict_in_generate=True, **asked)
    for length in (WINDOW, WINDOW + 1, PROMPT + NEW - 1):
        whole = model(made.sequences[:, :length]).logits[0, -1]
        off = (made.logits[length - PROMPT][0] - whole).abs().max()
        said = "right" if off < 1e-3 else f"off by {off:.1f}"
        print(f"{name}, logits after {length} tokens: {said}")
    other = model.generate(prompt, use_cache=False, **asked) != made.sequences
    print(f"{name}, tokens that differ without a cache: {int(other.sum())}")


print("transformers", transformers.__version__, "torch", torch.__version__.partition("+")[0])
torch.manual_seed(0)
seen("Llama", LlamaForCausalLM(LlamaConfig(**SIZE, rope_parameters=dict(ROPE))).eval())
phi = Phi3Config(**SIZE, rope_parameters=dict(ROPE), original_max_position_embeddings=WINDOW)
seen("Phi-3", Phi3ForCausalLM(phi).eval())
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" 2> "$folder/said.txt" | tee "$folder/seen.txt"
grep -qx "Llama, logits after 64 tokens: right" "$folder/seen.txt"
grep -qx "Phi-3, logits after 65 tokens: right" "$folder/seen.txt"
grep -qx "Phi-3, tokens that differ without a cache: 0" "$folder/seen.txt"
grep -q "^Llama, logits after 65 tokens: off by " "$folder/seen.txt" &&
    ! grep -qx "Llama, tokens that differ without a cache: 0" "$folder/seen.txt" || {
    cat "$folder/said.txt"
    echo "Llama's cached keys follow the factors now: this finding is out of date"
    exit 1
}
