"""The model card: what a reader of an exported checkpoint is told."""

import numpy as np
import pandas as pd
import pytest

from longrope_lab.export.card import figures_table, model_card
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import DynamicNTK, RopeSchedule
from longrope_lab.rope.spec import RopeSpec

SPEC = RopeSpec(8, 4096, 500_000.0)
LONG = RopeScaling(SPEC, [1, 1.5, 8, 123.456], 65_536, start_tokens=4, attention_factor=1.0707)
SHORT = RopeScaling(SPEC, [1, 1.25, 2, 3], 8192, attention_factor=1.0707)


def card(scaling, origin="owner/base-1b", remarks=(), figures=""):
    return model_card("my model", origin, "longrope", scaling, remarks, figures)


def test_one_scaling():
    assert (
        card(LONG, remarks=["It was checked.", "", "It costs."], figures="| a | b |")
        == """\
---
library_name: transformers
pipeline_tag: text-generation
base_model: owner/base-1b
tags: [long-context, rope, longrope_lab]
---

# my model

owner/base-1b, its context window extended from 4,096 to 65,536 tokens
with longrope_lab (`longrope`).

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("my model")
tokenizer = AutoTokenizer.from_pretrained("my model")
```

The scaling is in `config.json`, and nothing else is needed. `scaling.json` holds the exact numbers
it was made of, for `longrope_lab`.

## Rotary embedding

| | |
|---|---|
| rope type | `longrope` |
| window before, tokens | 4,096 |
| rotary dimension | 8 |
| base | 500,000 |
| target length, tokens | 65,536 |
| factors λ | 1, 1.5, 8, 123.5 |
| start tokens | 4 (left out) |
| attention factor m | 1.0707 |

It was checked.

It costs.

## Measured

| a | b |
"""
    )


def test_two_sets_of_factors():
    lines = card(RopeSchedule.by_length([LONG, SHORT])).splitlines()
    for line in (
        "| target length (for 8,192), tokens | 8,192 |",
        "| factors λ (for 8,192) | 1, 1.25, 2, 3 |",
        "| start tokens (for 8,192) | 0 |",
        "| target length (for 65,536), tokens | 65,536 |",
        "| factors λ (for 65,536) | 1, 1.5, 8, 123.5 |",
        "| attention factor m (for 65,536) | 1.0707 |",
    ):
        assert line in lines
    told = next(
        line
        for line in lines
        if "The first factors serve inputs of up to 8,192 tokens, the second" in line
    )
    schedule = "longrope_lab.scaling_from_config(model.config)"
    assert f"`longrope_lab.generate(model, ids, {schedule}, max_new_tokens=" in told


def test_dynamic_ntk():
    text = card(DynamicNTK(SPEC, 2.5))
    assert "its context window extended as far as each input reaches\nwith longrope_lab (" in text
    assert "(`dynamic_ntk`)" in text
    assert "| ratio at l tokens, past the window L | 1 + 2.5 (l / L - 1) |" in text


def test_an_embedding_of_its_own():
    extended = RopeScaling(SPEC, [1, 2, 4, 8], 32_768, attention_factor=1.25).as_spec()
    text = card(rope_scaling(extended, "pi", 65_536))
    assert "| frequencies before | of its own: 1, 0.0188, 0.0003536, 6.648e-06 |" in text
    assert "| attention factor before | 1.25 |" in text
    assert "| base |" not in text


@pytest.mark.parametrize(
    ("origin", "title"),
    [
        ("/home/me/models/mine", "mine"),
        ("models/a/b", "b"),
        ("LlamaForCausalLM", "LlamaForCausalLM"),
    ],
)
def test_what_is_not_on_the_hub_is_no_base_model(origin, title):
    text = card(SHORT, origin)
    assert "base_model" not in text and f"\n{title}, its context" in text


def test_a_local_folder_that_looks_like_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner" / "base-1b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = card(SHORT)
    assert "base_model" not in text and "\nbase-1b, its context" in text


def test_a_table_of_figures():
    table = pd.DataFrame(
        {"length": [512, 4096], "perplexity": [12.3456789, 123456.7], "scaling|": ["a|b", "yarn"]}
    )
    expected = """\
| length | perplexity | scaling\\| |
| --- | --- | --- |
| 512 | 12.35 | a\\|b |
| 4,096 | 123,457 | yarn |"""
    assert figures_table(table) == expected
    assert (
        figures_table(table.set_index("length")) == expected
    )  # an index that has a name says something


def test_figures_by_name():
    numbers = {"perplexity": 12.0, "tokens": np.int64(4096), "good": True, "change": -0.00123}
    rows = figures_table(numbers).splitlines()
    assert rows[2:] == [
        "| perplexity | 12 |",
        "| tokens | 4,096 |",
        "| good | True |",
        "| change | -0.00123 |",
    ]
    assert figures_table(None) == ""


def test_names_with_markup_stay_in_their_line():
    text = model_card(
        'a "b"\n# c <i>d</i>', "some/path/x\n\n[y](z)", "longrope", SHORT, [],
        figures_table({"<b>\n|": 1.0, "on `kjv`": "2\n3"}),
    )  # fmt: skip
    lines = text.splitlines()
    assert '# a "b" # c &lt;i&gt;d&lt;/i&gt;' in lines
    assert r'model = AutoModelForCausalLM.from_pretrained("a \"b\"\n# c <i>d</i>")' in lines
    assert r"x \[y\](z), its context window extended from 4,096 to 8,192 tokens" in lines
    assert lines[-2:] == [r"| &lt;b&gt; \| | 1 |", r"| on \`kjv\` | 2 3 |"]
