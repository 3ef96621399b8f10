"""The room of numbers starts fast, and anywhere: no part of it loads a deep learning library."""

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys
from longrope_lab import rope

for module in pkgutil.iter_modules(rope.__path__):
    importlib.import_module(f"longrope_lab.rope.{module.name}")
print({"torch", "transformers"} & set(sys.modules))
import longrope_lab as lab

spec = lab.RopeSpec(rotary_dim=64, window=512, base=10_000.0)
lab.RopeSchedule.by_length([lab.rope_scaling(spec, "yarn", 4096)]).at(600).angles([0, 600])
print({"torch", "transformers"} & set(sys.modules))
"""


def test_numbers_need_neither_torch_nor_transformers():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["set()", "set()"]
