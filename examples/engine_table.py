"""Measures what the engines that are installed compute of the small model's exports.

python examples/engine_table.py docs/serving.md              # with those beside this Python
python examples/engine_table.py docs/serving.md OTHER/bin/python   # and those of another

Four scalings of the small model, 512 to 1,024 tokens, are written as folders and GGUF files. Each
engine is asked at three lengths. Another interpreter is asked for what its transformers computes of
the folders, and needs nothing of longrope_lab.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# Between these the table stands in docs/serving.md.
BEGIN, END = "<!-- by examples/engine_table.py -->\n\n", "<!-- end -->"

ROOT = Path(__file__).resolve().parents[1]
TARGET = 1024

# Engines by the package that they are in, with what they load and how they serve it.
ENGINES = {
    "llama.cpp": ("xllamacpp", "llama-server -m FILE.gguf -c 1024 --parallel 1"),
    "mlx-lm": ("mlx-lm", "mlx_lm.server --model FOLDER"),
    "ctranslate2": ("ctranslate2", "ct2-transformers-converter --model FOLDER --output_dir OUT"),
}
SERVED_BY = "transformers serve FOLDER"

# What an interpreter says of itself.
VERSIONS = """
import importlib.metadata as m, json
names = ["transformers", "xllamacpp", "mlx-lm", "ctranslate2"]

def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None

print(json.dumps({n: version(n) for n in names if version(n)}))
"""

# Log-probabilities of the tokens of an input, by stock transformers alone.
STOCK = """
import json, sys, torch, transformers
transformers.logging.set_verbosity_error()
folder, inputs = sys.argv[1], json.loads(sys.stdin.read())
model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
with torch.no_grad():
    for ids in inputs:
        rows = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        print(json.dumps(rows[range(len(ids) - 1), ids[1:]].tolist()))
"""


def exports(folder: Path) -> dict[str, Mapping[str, Path]]:
    """Folders and GGUF files of the four scalings, by their names."""
    import numpy as np

    import longrope_lab as lab

    model, tokenizer = lab.load_model("lab", device="cpu")
    spec = lab.rope_spec(model)
    m = {"attention_factor": 1.2}  # LongRoPE's formula gives 1.054
    long = lab.RopeScaling(spec, np.linspace(1, 10, spec.rotary_dim // 2), TARGET, **m)
    short = lab.RopeScaling(spec, np.linspace(1, 2, spec.rotary_dim // 2), spec.window, **m)
    scalings = {
        "PI": lab.rope_scaling(spec, "pi", TARGET),
        "YaRN": lab.rope_scaling(spec, "yarn", TARGET),
        "LongRoPE, one set": long,
        "LongRoPE, two sets": lab.RopeSchedule.by_length([short, long]),
    }
    made: dict[str, Mapping[str, Path]] = {}
    for number, (name, scaling) in enumerate(scalings.items()):
        here = {"folder": lab.save_pretrained(model, tokenizer, scaling, folder / str(number))}
        if hasattr(lab, "save_gguf"):
            file = folder / f"{number}.gguf"
            here["gguf"] = lab.save_gguf(model, tokenizer, scaling, file)
        made[name] = here
    return made


def stock_engine(python: str, folder: Path):
    """An engine that another interpreter's transformers is, by one process per question."""

    def ask(ids: Sequence[int], positions: Sequence[int]):
        command = [python, "-W", "ignore", "-c", STOCK, str(folder)]
        done = subprocess.run(
            command, input=json.dumps([list(ids)]), capture_output=True, text=True, check=True
        )
        values = json.loads(done.stdout.splitlines()[-1])
        return [{ids[n + 1]: values[n]} for n in positions]

    return ask


def cell(served) -> str:
    """What an engine computes, in a cell of the table."""
    if served.right:
        return f"right ({max(row.most for row in served.lengths):.0e})"
    names = [row.computes or "something else" for row in served.lengths]
    if len(set(names)) == 1:
        return f"**{names[0]}**"
    shown = [
        "right" if row.right else f"**{name}**"
        for row, name in zip(served.lengths, names, strict=True)
    ]
    lengths = [f"{row.length:,}" for row in served.lengths]
    return "; ".join(f"{n}: {what}" for n, what in zip(lengths, shown, strict=True))


def row_of(engine, made: Mapping[str, Mapping[str, Path]], kind: str) -> list[str]:
    """An engine's cells: one for each scaling. `engine` gives one for a path."""
    import longrope_lab as lab

    cells = []
    for paths in made.values():
        if kind not in paths:
            cells.append("not measured")
            continue
        try:
            cells.append(cell(lab.check_serving(paths["folder"], engine(paths[kind]))))
        except ValueError as error:
            cells.append(f"refused: {str(error).splitlines()[0].rpartition(': ')[2][:60]}")
    return cells


def rows_of(python: str, made: Mapping[str, Mapping[str, Path]]) -> list[list[str]]:
    """The rows of what one interpreter has."""
    told = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    versions, rows = json.loads(told.stdout), []
    if version := versions.get("transformers"):
        cells = row_of(lambda path: stock_engine(python, path), made, "folder")
        rows.append([f"transformers {version}", *cells, f"`{SERVED_BY}`"])
    if Path(python).absolute() == Path(sys.executable).absolute():
        for name, (package, command) in ENGINES.items():
            if package in versions:
                kind = "gguf" if name == "llama.cpp" else "folder"
                cells = row_of(lambda path, name=name: f"{name}:{path}", made, kind)
                called = f"{name} (in {package} {versions[package]})"
                called = called if name == "llama.cpp" else f"{name} {versions[package]}"
                rows.append([called, *cells, f"`{command}`"])
    return rows


def page(rows: list[list[str]], names: Sequence[str]) -> str:
    """The rows as a table in Markdown."""
    heads = ["engine", *names, "command"]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str]) -> None:
    """The table into a file, or onto the screen."""
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(ROOT))
    from longrope_lab.common.markup import print_or_put

    files = [Path(name) for name in arguments if name.endswith(".md")]
    pythons = [sys.executable, *(name for name in arguments if not name.endswith(".md"))]
    with tempfile.TemporaryDirectory() as folder:
        made = exports(Path(folder))
        rows = [row for python in pythons for row in rows_of(python, made)]
    text = page(rows, list(made))
    print_or_put(text, files, BEGIN, END)


if __name__ == "__main__":
    main(sys.argv[1:])
