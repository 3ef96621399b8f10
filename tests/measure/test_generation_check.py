"""Generated tokens, read again from scratch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab.measure.generation_check import reread
from longrope_lab.models.generation import generate
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.schedule import RopeSchedule

NEW = 8


@pytest.fixture(scope="module")
def written():
    """A model, a schedule, two prompts, one of which crosses the switch, and what it wrote."""
    model = tiny_model()
    spec = rope_spec(model)
    ends = (WINDOW, 2 * WINDOW)
    schedule = RopeSchedule.by_length([rope_scaling(spec, "pi", n) for n in ends])
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, VOCABULARY, n).tolist() for n in (WINDOW - 4, WINDOW - 20)]
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    return model, schedule, prompts, generate(model, ids, schedule, attention_mask=mask, **options)


def test_what_was_generated_greedily_is_the_likeliest(written):
    model, schedule, prompts, generated = written
    table = reread(model, prompts, generated, schedule)
    assert table["prompt"].tolist() == [WINDOW - 4, WINDOW - 20]
    assert table["end"].tolist() == [WINDOW + 4, WINDOW - 12]
    assert table["factors for"].tolist() == [2 * WINDOW, WINDOW]
    assert table["tokens equal"].tolist() == [NEW, NEW] == table["of"].tolist()
    assert table["behind"].tolist() == [0, 0]


def test_another_token_is_behind_the_likeliest(written):
    model, schedule, prompts, generated = written
    changed = generated.clone()
    changed[1, -1] = (changed[1, -1] + 1) % VOCABULARY
    table = reread(model, prompts, changed, schedule)
    assert table["tokens equal"].tolist() == [NEW, NEW - 1]
    with apply_scaling(model, schedule.at(WINDOW - 12)), torch.inference_mode():
        logits = model(torch.tensor([prompts[1] + changed[1, -NEW:-1].tolist()])).logits[0, -1]
    behind = float(logits.max() - logits[changed[1, -1]])
    assert table["behind"].tolist() == [0, pytest.approx(behind, abs=1e-5)]


@pytest.mark.parametrize(
    ("prompts", "generated"),
    [
        ([], torch.zeros(0, 0, dtype=torch.long)),
        ([[3, 4]], torch.zeros(1, 2, dtype=torch.long)),
        ([[3, 4]], torch.zeros(2, 4, dtype=torch.long)),
        ([[3, 4]], torch.zeros(1, 4)),
        ([[3, 4]], torch.zeros(4, dtype=torch.long)),
    ],
)
def test_what_was_not_generated_for_these_prompts(prompts, generated):
    model = tiny_model()
    scaling = rope_scaling(rope_spec(model), "yarn", 128)
    with pytest.raises(ValueError, match=r"generated is torch\.\w+ of shape .*: pass the"):
        reread(model, prompts, generated, scaling)
