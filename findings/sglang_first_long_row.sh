#!/usr/bin/env bash
# SGLang turns the first token beyond LongRoPE's window as if it were the first of the text.
#
# One would guess: with rope type "longrope", the token at position
# `original_max_position_embeddings` is turned by that position, with the long factors.
# What happens: both tables lie in one, the short one first. A step moves to the long one if a
# position in it is *greater* than the window. At the window itself, the index is one past the short
# table, which is row 0 of the long one: no rotation at all. A prompt of one token more than the
# window ends so. A generation that crosses the window by itself leaves such a key in its cache.
# The rule looks at all tokens of a step: a neighbour's token further on puts this one right, and
# turns all tokens of short texts by the long factors.
#
# SGLang 0.5.23 (its rotary class alone, on a CPU), torch 2.13.0, seen on 28 November 2026.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile "torch==2.13.0" numpy
"$folder/venv/bin/pip" install -q --no-compile --no-deps "sglang==0.5.23"

cat > "$folder/seen.py" <<'PYTHON'
import importlib.util
import sys
from importlib.metadata import distribution, version
from unittest.mock import MagicMock

import torch

WINDOW, PAIRS, LONG = 64, 8, 4.0
ROOM = "sglang.srt.layers.rotary_embedding"

# The rest of SGLang wants a GPU; the class for longrope is PyTorch alone.
for name in (
    "sglang",
    "sglang.kernels",
    "sglang.kernels.fused_op",
    "sglang.srt",
    "sglang.srt.layers",
    "sglang.srt.utils",
    ROOM,
    f"{ROOM}.base",
    f"{ROOM}.yarn",
):
    sys.modules[name] = MagicMock()
machine = sys.modules["sglang.srt.utils"]
for asked in ("cpu_has_amx_support", "is_cuda", "is_hip", "is_npu"):
    getattr(machine, asked).return_value = False
sys.modules["sglang.kernels.fused_op"].BaseFusedOp = torch.nn.Module
sys.modules[f"{ROOM}.base"].RotaryEmbedding = torch.nn.Module


def from_the_wheel(name):
    path = distribution("sglang").locate_file(f"{ROOM.replace('.', '/')}/{name}.py")
    spec = importlib.util.spec_from_file_location(f"{ROOM}.{name}", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


from_the_wheel("utils")
rotary = from_the_wheel("rope_variant").Phi3LongRoPEScaledRotaryEmbedding(
    head_size=2 * PAIRS,
    rotary_dim=2 * PAIRS,
    max_position_embeddings=4 * WINDOW,
    original_max_position_embeddings=WINDOW,
    base=10000,
    is_neox_style=True,
    dtype=torch.float32,
    short_factor=[1.0] * PAIRS,
    long_factor=[LONG] * PAIRS,
)


def seen(*positions):
    """As which position of the text the first token of a step is turned, by either set."""
    ones = torch.cat((torch.ones(PAIRS), torch.zeros(PAIRS))).expand(len(positions), -1)
    _, keys = rotary(torch.tensor(positions), ones, ones.clone())
    slow = PAIRS // 2  # a pair that makes no whole turn here
    angle = torch.atan2(keys[0, PAIRS + slow], keys[0, slow])
    unscaled = angle * 10_000 ** (slow / PAIRS)
    beside = f" beside {positions[1]}" if len(positions) > 1 else ""
    print(f"position {positions[0]}{beside}:", end=" ")
    print(f"turned as {unscaled:.0f} (short set) or {LONG * unscaled:.0f} (long set)")


print("sglang", version("sglang"), "torch", torch.__version__.partition("+")[0])
seen(WINDOW)
seen(WINDOW + 1)
seen(WINDOW, WINDOW + 1)
seen(40)
seen(40, WINDOW + 1)
PYTHON

"$folder/venv/bin/python" -W ignore "$folder/seen.py" 2> "$folder/said.txt" |
    tee "$folder/seen.txt" || { cat "$folder/said.txt"; exit 1; }
grep -qx "position 65: turned as 16 (short set) or 65 (long set)" "$folder/seen.txt"
grep -qx "position 40: turned as 40 (short set) or 160 (long set)" "$folder/seen.txt"
grep -qx "position 64: turned as 0 (short set) or 0 (long set)" "$folder/seen.txt" &&
    grep -qx "position 40 beside 65: turned as 10 (short set) or 40 (long set)" \
        "$folder/seen.txt" || {
    cat "$folder/said.txt"
    echo "position 64 is turned as such now, or neighbours do not count: this is out of date"
    exit 1
}
