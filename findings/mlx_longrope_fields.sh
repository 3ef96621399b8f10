#!/usr/bin/env bash
# mlx-lm never reads LongRoPE's short factors, nor the attention factor that a config states.
#
# One would guess: with rope type "longrope", an input within original_max_position_embeddings is
# turned by `short_factor` and a longer one by `long_factor`, as in transformers and in Microsoft's
# own code of Phi-3; and a stated `attention_factor` takes the place of the formula.
# What happens: `long_factor` turns inputs of every length. `short_factor` is taken as an argument
# and thrown away. `attention_factor` is not looked at: queries and keys grow by the formula's
# sqrt(1 + ln s / ln L). Nothing is said of either.
#
# mlx-lm 0.32.2, mlx 0.32.4, seen on 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q "mlx-lm==0.32.2" "mlx[cpu]==0.32.4"

cat > "$folder/seen.py" <<'PYTHON'
import math
from importlib.metadata import version

import mlx.core as mx
from mlx_lm.models.rope_utils import initialize_rope

WINDOW, DIMS = 64, 16
CONFIG = {
    "type": "longrope",
    "original_max_position_embeddings": WINDOW,
    "short_factor": [1.0] * (DIMS // 2),
    "long_factor": [4.0] * (DIMS // 2),
    "attention_factor": 1.0,
}


def turned(length, **fields):
    """Angle and length of the fastest pair at position 1, in an input of so many tokens."""
    rope = initialize_rope(DIMS, 10_000.0, False, CONFIG | fields, 4 * WINDOW)
    ones = mx.concatenate([mx.ones((length, DIMS // 2)), mx.zeros((length, DIMS // 2))], axis=-1)
    out = rope(ones[None, None])[0, 0, 1]
    x, y = out[0].item(), out[DIMS // 2].item()
    return round(math.atan2(y, x), 3), round(math.hypot(x, y), 3)


print("mlx-lm", version("mlx-lm"), "mlx", version("mlx"))
for length in (WINDOW, WINDOW + 1):
    angle, size = turned(length)
    print(f"{length} tokens: angle {angle}, size {size}")
print("stated 1.5:", turned(WINDOW + 1, attention_factor=1.5)[1])
print("formula:", round(math.sqrt(1 + math.log(4) / math.log(WINDOW)), 3))
PYTHON

"$folder/venv/bin/python" "$folder/seen.py" | tee "$folder/seen.txt"
grep -qx "64 tokens: angle 0.25, size 1.155" "$folder/seen.txt" &&
    grep -qx "65 tokens: angle 0.25, size 1.155" "$folder/seen.txt" &&
    grep -qx "stated 1.5: 1.155" "$folder/seen.txt" || {
    echo "the short factors, or the attention factor, are read now: this finding is out of date"
    exit 1
}
