"""The model card of an exported checkpoint: its scaling in numbers, and what was measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.markup import as_markdown
from ..models.old_form import Forms
from ..rope.scaling import RopeScaling
from ..rope.schedule import DynamicNTK, Scaling, sets_of
from ..rope.spec import RopeSpec

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
{base_model}tags: [long-context, rope, longrope_lab]
---

# {heading}

{title}, its context window extended {reach}
with longrope_lab (`{method}`).

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({name})
tokenizer = AutoTokenizer.from_pretrained({name})
```

The scaling is in `config.json`, and nothing else is needed. `scaling.json` holds the exact numbers
it was made of, for `longrope_lab`.

## Rotary embedding

| | |
|---|---|
{rows}

{remarks}
"""


def model_card(
    name: str, origin: str, rope_type: str, scaling: Scaling, remarks: Iterable[str], figures: str
) -> str:
    """The card as Markdown, with the head that the hub reads.

    Args:
        name: of the checkpoint.
        origin: the model that was extended: a hub id, a local path (of which the last part alone is
            named), a class.
        rope_type: as the config names it.
        scaling: as it was given.
        remarks: paragraphs below the table of the scaling; empty ones are left out.
        figures: a table of measured numbers (`figures_table`), or "".
    """
    on_hub = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", origin)) and not Path(origin).exists()
    sets = sets_of(scaling)
    reach = "as far as each input reaches"
    if sets:
        reach = f"from {scaling.spec.window:,} to {sets[-1].target_length:,} tokens"
    rows = [f"| rope type | `{rope_type}` |", *_spec_rows(scaling.spec), *_scaling_rows(scaling)]
    card = TEMPLATE.format(
        base_model=f"base_model: {origin}\n" if on_hub else "",
        heading=as_markdown(name),
        name=json.dumps(name),  # as Python writes it, too
        title=as_markdown(origin if on_hub else Path(origin).name),  # a path says nothing to others
        reach=reach,
        method=" ".join(scaling.method.replace("`", " ").split()),
        rows="\n".join(rows),
        remarks="\n\n".join(remark for remark in [_switch(sets), *remarks] if remark),
    )
    return card + (f"\n## Measured\n\n{figures}\n" if figures else "")


def read_by(forms: Forms) -> str:
    """Which forms of the rope parameters the config has, and so who reads them."""
    if forms == "alone":
        return (
            "The config has the scaling in the form of transformers 5 (`rope_parameters`) alone, "
            "as the older one has no names for it: do not load it with transformers 4, nor with an "
            "engine that reads `rope_scaling`."
        )
    readers = "transformers 4.57 and other engines read"
    if forms == "refused by 4":
        readers = "other engines read (transformers 4 refuses it for this kind of model)"
    return (
        "The config has the scaling in two forms: that of transformers 5 (`rope_parameters`), and "
        f"the older one (`rope_theta`, `rope_scaling`), which {readers}. transformers 5 drops the "
        "older form when it loads this folder and saves it again; `longrope_lab.save_pretrained` "
        "writes both."
    )


def _spec_rows(spec: RopeSpec) -> list[str]:
    rows = [
        f"| window before, tokens | {spec.window:,} |",
        f"| rotary dimension | {spec.rotary_dim} |",
    ]
    if spec.base is None:
        rows.append(f"| frequencies before | of its own: {_numbers(spec.frequencies)} |")
    else:
        rows.append(f"| base | {spec.base:,g} |")
    if spec.attention_factor != 1:
        rows.append(f"| attention factor before | {spec.attention_factor:.6g} |")
    return rows


def _scaling_rows(scaling: Scaling) -> list[str]:
    if isinstance(scaling, DynamicNTK):
        return [f"| ratio at l tokens, past the window L | 1 + {scaling.alpha:g} (l / L - 1) |"]
    sets = sets_of(scaling)
    rows = []
    for s in sets:
        at = f" (for {s.target_length:,})" if len(sets) > 1 else ""
        rows += [
            f"| target length{at}, tokens | {s.target_length:,} |",
            f"| factors λ{at} | {_numbers(s.factors)} |",
            f"| start tokens{at} | {s.start_tokens}{' (left out)' if s.start_tokens else ''} |",
            f"| attention factor m{at} | {s.attention_factor:.6g} |",
        ]
    return rows


def _switch(sets: Sequence[RopeScaling]) -> str:
    """What a user of two sets of factors has to know; "" for one."""
    if len(sets) < 2:
        return ""
    return (
        f"The first factors serve inputs of up to {sets[0].target_length:,} tokens, the second "
        "longer ones. transformers goes by the longest row of a batch; generation that passes this "
        "length keeps the keys it has cached as they are (Phi-3 computes them again). "
        "`longrope_lab.generate(model, ids, longrope_lab.scaling_from_config(model.config), "
        "max_new_tokens=...)` chooses one set for each row beforehand. vLLM takes "
        f"{sets[0].target_length:,} tokens for the longest input: `--max-model-len "
        f"{sets[-1].target_length}` says otherwise, and it then uses the second factors for all."
    )


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def figures_table(figures: pd.DataFrame | Mapping[str, object] | None) -> str:
    """Measured numbers as a Markdown table; "" for None.

    Args:
        figures: a table, whose index is shown where it has a name, or numbers by name.

    Raises:
        ValueError: neither a table nor a mapping of names to numbers.
    """
    if figures is None:
        return ""
    rows: Iterable[tuple[object, ...]]
    if isinstance(figures, pd.DataFrame):
        if any(name is not None for name in figures.index.names):
            figures = figures.reset_index()
        header = [_cell(name) for name in figures.columns]
        rows = figures.itertuples(index=False, name=None)
    elif isinstance(figures, Mapping):
        header, rows = ["", ""], figures.items()
    else:
        raise ValueError(
            f"figures is a {type(figures).__name__}: pass a DataFrame, or a dict of names and "
            "numbers"
        )
    table = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return f"{value:,}" if whole else as_markdown(value)
