#!/usr/bin/env bash
# A Llama saved by transformers 5 loses its scaling and its base in transformers 4.57 and in mlx-lm.
#
# One would guess: a config.json that says how its rotary embedding is scaled is understood, or
# refused. All three programs read the old fields `rope_theta` and `rope_scaling`.
# What happens: transformers 5 writes `rope_parameters` alone. transformers 4.57 and mlx-lm pass over
# it without a word. They load the model with no scaling and a base of 10,000, and give the same
# logits, to the bit, as if config.json had no rope_parameters at all.
#
# transformers 5.23.0 and 4.57.6, torch 2.13.0, mlx-lm 0.32.2, seen on 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "transformers==5.23.0" "torch==2.13.0" "mlx-lm==0.32.2" \
    "mlx[cpu]==0.32.4" numpy requests
"$folder/venv/bin/pip" install -q --no-deps --target "$folder/four" "transformers==4.57.6" \
    "huggingface_hub==0.36.0" "tokenizers==0.22.1"

cat > "$folder/save.py" <<'PYTHON'
import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
size = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
config = LlamaConfig(
    **size,
    num_attention_heads=4,
    initializer_range=0.2,
    max_position_embeddings=256,
    rope_parameters=yarn | {"rope_theta": 500000.0},
)
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained(folder / "stated")
shutil.copytree(folder / "stated", folder / "left_out")
stated = json.loads((folder / "stated/config.json").read_text())
del stated["rope_parameters"]
(folder / "left_out/config.json").write_text(json.dumps(stated))
PYTHON

cat > "$folder/torch_logits.py" <<'PYTHON'
import sys

import torch
import transformers

rows = [
    transformers.AutoModelForCausalLM.from_pretrained(f"{sys.argv[1]}/{name}", dtype=torch.float32)
    .eval()(torch.arange(200)[None] % 97)
    .logits
    for name in ("stated", "left_out")
]
same = "the same logits" if torch.equal(*rows) else "other logits"
print(f"transformers {transformers.__version__}: {same} without rope_parameters")
PYTHON

cat > "$folder/mlx_logits.py" <<'PYTHON'
import sys
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx
from mlx_lm.utils import load_model

ids = mx.arange(200)[None] % 97
rows = [load_model(Path(sys.argv[1], name))[0](ids) for name in ("stated", "left_out")]
same = "the same logits" if mx.array_equal(*rows).item() else "other logits"
print(f"mlx-lm {version('mlx-lm')}: {same} without rope_parameters")
PYTHON

python="$folder/venv/bin/python -W ignore"
export HF_HUB_OFFLINE=1
$python "$folder/save.py" "$folder" > /dev/null 2>&1
{
    $python "$folder/torch_logits.py" "$folder"
    PYTHONPATH="$folder/four" $python "$folder/torch_logits.py" "$folder"
    $python "$folder/mlx_logits.py" "$folder"
} 2> "$folder/said.txt" | tee "$folder/seen.txt"
grep -qx "transformers 5.23.0: other logits without rope_parameters" "$folder/seen.txt"
grep -qx "transformers 4.57.6: the same logits without rope_parameters" "$folder/seen.txt" &&
    grep -qx "mlx-lm 0.32.2: the same logits without rope_parameters" "$folder/seen.txt" || {
    echo "rope_parameters are read now: this finding is out of date"
    exit 1
}
