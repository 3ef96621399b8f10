"""The model card of an exported checkpoint: what was scaled, by which numbers, and what was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..rope.scaling import RopeScaling
from ..rope.schedule import DynamicNTK, Scaling, sets_of
from ..rope.spec import RopeSpec

TEMPLATE = """\
---
library_name: transformers
pipeline_tag: text-generation
{base_model}tags: [long-context, rope, longrope_lab]
---

# {name}

{title}, its context window extended {reach} with longrope_lab (`{method}`).

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
```

The scaling is in `config.json`, and nothing else is needed. `scaling.json` holds the exact numbers it was made of, for
`longrope_lab`.

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
    stages = sets_of(scaling)
    window = scaling.spec.window
    reach = (
        f"from {window:,} to {stages[-1].target_length:,} tokens"
        if stages
        else "as far as each input reaches"
    )
    card = TEMPLATE.format(
        base_model=f"base_model: {origin}\n" if on_hub else "",
        name=name,
        title=origin if on_hub else Path(origin).name,  # a local path says nothing to others
        reach=reach,
        method=scaling.method,
        rows="\n".join(
            [f"| rope type | `{rope_type}` |", *_spec_rows(scaling.spec), *_scaling_rows(scaling)]
        ),
        remarks="\n\n".join(remark for remark in [_switch(stages), *remarks] if remark),
    )
    return card + (f"\n## Measured\n\n{figures}\n" if figures else "")


def _spec_rows(spec: RopeSpec) -> list[str]:
    start = (
        f"{spec.base:,g}" if spec.base is not None else "of its own: " + _numbers(spec.frequencies)
    )
    rows = [
        f"| window before, tokens | {spec.window:,} |",
        f"| rotary dimension | {spec.rotary_dim} |",
        f"| {'base' if spec.base is not None else 'frequencies before'} | {start} |",
    ]
    return rows + (
        [f"| attention factor before | {spec.attention_factor:.6g} |"]
        if spec.attention_factor != 1
        else []
    )


def _scaling_rows(scaling: Scaling) -> list[str]:
    if isinstance(scaling, DynamicNTK):
        return [f"| ratio at l tokens, past the window L | 1 + {scaling.alpha:g} (l / L - 1) |"]
    stages = sets_of(scaling)
    rows = []
    for stage in stages:
        at = f" (for {stage.target_length:,})" if len(stages) > 1 else ""
        rows += [
            f"| target length{at}, tokens | {stage.target_length:,} |",
            f"| factors λ{at} | {_numbers(stage.factors)} |",
            f"| start tokens{at} | {stage.start_tokens}{' (left out)' if stage.start_tokens else ''} |",
            f"| attention factor m{at} | {stage.attention_factor:.6g} |",
        ]
    return rows


def _switch(stages: Sequence[RopeScaling]) -> str:
    """What a user of two sets of factors has to know; "" for one."""
    if len(stages) < 2:
        return ""
    return (
        f"The first factors serve inputs of up to {stages[0].target_length:,} tokens, the second longer ones. "
        "transformers goes by the longest row of a batch; generation that passes this length keeps the keys it has "
        "cached as they are (Phi-3 computes them again). `longrope_lab.generate(model, ids, "
        "longrope_lab.scaling_from_config(model.config), max_new_tokens=...)` chooses one set for each row beforehand."
    )


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def figures_table(figures: pd.DataFrame | Mapping[str, Any] | None) -> str:
    """Measured numbers as a Markdown table, with its index where that has a name; "" for None.

    Raises:
        ValueError: neither a table nor a mapping of names to numbers.
    """
    if figures is None:
        return ""
    rows: Iterable[tuple[Any, ...]]
    if isinstance(figures, pd.DataFrame):
        if any(name is not None for name in figures.index.names):
            figures = figures.reset_index()
        header, rows = (
            [_cell(name) for name in figures.columns],
            figures.itertuples(index=False, name=None),
        )
    elif isinstance(figures, Mapping):
        header, rows = ["", ""], figures.items()
    else:
        raise ValueError(
            f"figures is a {type(figures).__name__}: pass a DataFrame, or a dict of names and numbers"
        )
    table = [header, ["---"] * len(header), *([_cell(value) for value in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        number = float(value)
        return f"{number:.4g}" if abs(number) < 1e4 else f"{number:,.0f}"
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return f"{value:,}" if whole else str(value).replace("|", "\\|")
