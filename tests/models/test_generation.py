"""Every step of a generation against forward passes from scratch.

They lie on both sides of the length at which a schedule changes its factors.
"""

import math

import numpy as np
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab.models.generation import generate, left_padded
from longrope_lab.models.read_config import scaling_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import RopeSchedule

TEXT = torch.randint(3, VOCABULARY, (1000,), generator=torch.Generator().manual_seed(1))
NEW = 6
LENGTHS = (
    20,
    WINDOW - NEW,
    WINDOW - 3,
    WINDOW + 16,
)  # short, just short, crossing the border, long
STEPS = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def prompts(*lengths):
    """Rows of text of these lengths, padded on the left with 0, and their mask."""
    longest = max(lengths)
    rows = [TEXT[100 * i : 100 * i + n] for i, n in enumerate(lengths)]
    ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0)) for row in rows])
    return ids, (ids > 0).long()


def schedules(spec):
    pairs = spec.rotary_dim // 2
    short = RopeScaling(spec, np.ones(pairs), WINDOW)
    middle = RopeScaling(
        spec, np.linspace(1, 2, pairs), WINDOW + 8, start_tokens=4, attention_factor=1.1
    )
    return {
        "recovery": RopeSchedule.by_length([short, rope_scaling(spec, "pi", 4 * WINDOW)]),
        "three sets": RopeSchedule.by_length(
            [short, middle, rope_scaling(spec, "yarn", 4 * WINDOW)]
        ),
        "dynamic NTK": rope_scaling(spec, "dynamic_ntk", 4 * WINDOW),
        "one scaling": rope_scaling(spec, "ntk", 4 * WINDOW),
    }


@torch.no_grad()
def from_scratch(model, scaling, ids, new=NEW):
    """Logits (new, V) for the last `new` of ids (T,), by a pass without a cache or padding."""
    with apply_scaling(model, scaling):
        return model(ids[None], use_cache=False).logits[0, -new - 1 : -1]


def assert_each_step_is_from_scratch(model, schedule, out, lengths, repeats=1):
    """Of what `generate` returned with STEPS."""
    steps = torch.stack(out.logits, dim=1)  # (B, new, V)
    assert len(steps) == repeats * len(lengths)
    for row, ours in enumerate(steps):
        length = lengths[row // repeats]
        expected = from_scratch(
            model, schedule.at(length + NEW), out.sequences[row, -length - NEW :]
        )
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


# --- logits ---


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "gemma2", "gemma3", "phi3", "gpt_neox", "cohere"]
)
@pytest.mark.parametrize("kind", ["recovery", "three sets", "dynamic NTK", "one scaling"])
def test_each_step_is_a_forward_from_scratch(family, kind):
    model = tiny_model(family)
    schedule = schedules(rope_spec(model))[kind]
    ids, mask = prompts(*LENGTHS)
    out = generate(model, ids, schedule, attention_mask=mask, **STEPS)
    assert_each_step_is_from_scratch(model, schedule, out, LENGTHS)


@pytest.mark.parametrize("kind", ["recovery", "three sets", "dynamic NTK"])
def test_one_set_for_the_whole_batch_would_be_wrong(kind):
    """What transformers does: the longest row decides. The test above would not let that pass."""
    model = tiny_model()
    schedule = schedules(rope_spec(model))[kind]
    ids, mask = prompts(*LENGTHS)
    with pytest.raises(AssertionError):
        assert_each_step_is_from_scratch(
            model,
            schedule,
            generate(model, ids, schedule.at(max(LENGTHS) + NEW), attention_mask=mask, **STEPS),
            LENGTHS,
        )


@pytest.mark.parametrize("length", LENGTHS)
def test_a_row_alone_needs_no_mask(length):
    model = tiny_model()
    schedule = schedules(rope_spec(model))["three sets"]
    out = generate(model, [TEXT[:length].tolist()], schedule, **STEPS)
    assert_each_step_is_from_scratch(model, schedule, out, [length])


def test_an_answer_that_may_reach_the_border_is_long_from_the_start():
    model = tiny_model()
    schedule = schedules(rope_spec(model))["recovery"]
    ids, _ = prompts(WINDOW - NEW)
    options = {"return_dict_in_generate": True, "output_logits": True}
    for new in (NEW, NEW + 1):
        first = generate(model, ids, schedule, max_new_tokens=new, **options).logits[0]
        with apply_scaling(model, schedule.at(WINDOW - NEW + new)), torch.no_grad():
            torch.testing.assert_close(first, model(ids).logits[:, -1], atol=2e-5, rtol=0)


# --- what transformers does at the border ---

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.1, 1.5, 2.0, 3.0, 4.0, 4.5, 5.0],
    "original_max_position_embeddings": WINDOW,
}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}


def carrying(family, rope):
    """A tiny model whose config carries a schedule."""
    own = {"original_max_position_embeddings": WINDOW} if family == "phi3" else {}
    longest = WINDOW if rope["rope_type"] == "dynamic" else 4 * WINDOW
    return tiny_model(
        family, rope_parameters={"rope_theta": 1e4} | rope, max_position_embeddings=longest, **own
    )


def steps_off(model, out):
    """How far each step of a stock generation is from a stock pass over the text so far, (new,)."""
    ids = out.sequences
    expected = torch.stack(
        [model(ids[:, :n]).logits[0, -1] for n in range(ids.shape[1] - NEW, ids.shape[1])]
    )
    return (torch.cat(out.logits) - expected).abs().amax(dim=1) / expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_stock_transformers_is_wrong_at_the_border_and_this_is_not(rope):
    """A Llama with the schedule in its config: its own generate mixes two sets in the cache."""
    model = carrying("llama", rope)
    ids, _ = prompts(WINDOW - 3)
    stock = steps_off(model, model.generate(ids, **STEPS))
    assert stock[:3].max() < 1e-5  # tokens 62, 63 and 64: the short set
    assert stock[-1] > 1e-3  # beyond: the keys of 64 tokens are short, their query is long
    schedule = scaling_from_config(model.config)
    assert_each_step_is_from_scratch(
        model, schedule, generate(model, ids, schedule, **STEPS), [WINDOW - 3]
    )


def test_phi3_drops_its_cache_at_the_border_and_loses_nothing():
    """It is right at the border for all rows at once; ours is right on both sides of it."""
    model = carrying("phi3", LONGROPE)
    schedule = scaling_from_config(model.config)
    ids, mask = prompts(
        *LENGTHS[:3]
    )  # the drop comes at the third row's border, and reads the others anew, too
    out = generate(model, ids, schedule, attention_mask=mask, **STEPS)
    assert_each_step_is_from_scratch(model, schedule, out, LENGTHS[:3])


# --- tokens ---


@torch.no_grad()
def greedy(model, scaling, ids, new):
    """The most likely continuation of ids (T,), with no cache."""
    with apply_scaling(model, scaling):
        for _ in range(new):
            best = model(ids[None], use_cache=False).logits[0, -1].argmax()
            ids = torch.cat((ids, best[None]))
            if best == model.config.eos_token_id:
                break
    return ids


@pytest.mark.parametrize("kind", ["recovery", "dynamic NTK"])
def test_greedy_tokens(kind):
    model = tiny_model()
    schedule = schedules(rope_spec(model))[kind]
    ids, mask = prompts(*LENGTHS)
    out = generate(model, ids, schedule, attention_mask=mask, max_new_tokens=20, do_sample=False)
    for row, length in zip(out, LENGTHS, strict=True):
        expected = greedy(
            model, schedule.at(length + 20), row[max(LENGTHS) - length : max(LENGTHS)], 20
        )
        assert row[max(LENGTHS) - length :][: len(expected)].tolist() == expected.tolist()
        assert (
            row[max(LENGTHS) - length + len(expected) :] == 0
        ).all()  # an answer that ended early is padded
    assert len(out.unique(dim=0)) == len(LENGTHS)


def test_candidates_looked_up_in_the_prompt():
    """Several tokens at a time are tried and some taken back: the same tokens in the end."""
    model = tiny_model()
    schedule = schedules(rope_spec(model))["recovery"]
    ids = TEXT[:10].repeat(6)[
        None, : WINDOW - 8
    ]  # repeats itself, so there is something to look up
    expected = greedy(model, schedule.at(WINDOW + 12), ids[0], 20)
    out = generate(
        model, ids, schedule, max_new_tokens=20, do_sample=False, prompt_lookup_num_tokens=4
    )
    assert out[0].tolist() == expected.tolist()


def test_several_answers_a_row():
    """Sampled: each of the three has its own tokens, and the scaling of the row it answers."""
    model = tiny_model()
    schedule = schedules(rope_spec(model))["three sets"]
    ids, mask = prompts(*LENGTHS)
    torch.manual_seed(0)
    out = generate(
        model, ids, schedule, attention_mask=mask, do_sample=True, num_return_sequences=3, **STEPS
    )
    assert len(out.sequences.unique(dim=0)) == 3 * len(LENGTHS)
    assert_each_step_is_from_scratch(model, schedule, out, LENGTHS, repeats=3)


@pytest.mark.parametrize("returned", [1, 2])
def test_beams(returned):
    """Each row's beams are those of the row alone, and score as in a pass from scratch."""
    model = tiny_model()
    schedule = schedules(rope_spec(model))["recovery"]
    ids, mask = prompts(*LENGTHS)
    options = {
        "num_beams": 3,
        "num_return_sequences": returned,
        "do_sample": False,
        "eos_token_id": None,
    }
    options |= {"max_new_tokens": NEW, "return_dict_in_generate": True, "output_scores": True}
    out = generate(model, ids, schedule, attention_mask=mask, **options)
    for row, (tokens, score) in enumerate(zip(out.sequences, out.sequences_scores, strict=True)):
        length = LENGTHS[row // returned]
        own = tokens[-length - NEW :]
        scaling = schedule.at(length + NEW)
        log_p = from_scratch(model, scaling, own).log_softmax(dim=-1)
        assert score.item() == pytest.approx(
            log_p[torch.arange(NEW), own[-NEW:]].mean().item(), abs=1e-5
        )
        with apply_scaling(model, scaling):
            alone = model.generate(own[None, :length], **options).sequences[row % returned]
        assert own.tolist() == alone.tolist()


# --- the model and its options ---


def test_a_scaling_in_place_comes_back_and_none_keeps_it():
    model = tiny_model()
    spec = rope_spec(model)
    ids, _ = prompts(WINDOW - 3)
    schedule, pi = schedules(spec)["recovery"], rope_scaling(spec, "pi", 4 * WINDOW)
    options = {"max_new_tokens": 4, "do_sample": False}
    stock = model.generate(ids, **options)
    assert torch.equal(generate(model, ids, None, **options), stock)
    with apply_scaling(model, pi) as handle:
        scaled = model.generate(ids, **options)
        assert torch.equal(generate(model, ids, None, **options), scaled)
        generate(model, ids, schedule, **options)
        assert torch.equal(model.generate(ids, **options), scaled)
        handle.restore()
    with pytest.raises(ValueError, match="no_such_option"):  # in the model's own words
        generate(model, ids, schedule, max_new_tokens=4, no_such_option=1)
    assert "forward" not in vars(model.model.rotary_emb)


def test_the_error_at_the_border_names_this_way_out():
    model = tiny_model()
    schedule = schedules(rope_spec(model))["recovery"]
    ids, _ = prompts(WINDOW - 3)
    with (
        apply_scaling(model, schedule),
        pytest.raises(RuntimeError, match=r"longrope_lab\.generate\(model, ids, sche"),
    ):
        model.generate(ids, **STEPS)
    generate(model, ids, schedule, **STEPS)


def test_a_scaling_for_another_model():
    other = rope_scaling(rope_spec(tiny_model("qwen3")), "pi", 4 * WINDOW)
    with pytest.raises(ValueError, match="this scaling is for rotary_dim 32"):
        generate(tiny_model(), TEXT[None, :5], other, max_new_tokens=1)


ONES = torch.ones(2, 5, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"input_ids": [[], []]},
            r"shape \(2, 0\): prompts are whole token ids \(B, T\), at least one token each",
        ),
        ({"input_ids": TEXT[:5]}, r"torch\.int64 of shape \(5,\): prompts are"),
        ({"input_ids": [[0.5, 1.0]]}, r"torch\.float32 of shape \(1, 2\)"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0: it counts tokens, a whole number from 1"),
        ({"max_new_tokens": -4}, "max_new_tokens is -4"),
        ({"max_new_tokens": None}, "max_new_tokens is None"),
        ({"max_new_tokens": 2.5}, r"max_new_tokens is 2\.5"),
        (
            {"attention_mask": ONES[:1]},
            r"attention_mask has shape \(1, 5\) and input_ids \(2, 5\): give one number per",
        ),
        ({"attention_mask": ONES[0]}, r"attention_mask has shape \(5,\)"),
        ({"attention_mask": 2 * ONES}, "holds other numbers than 0 and 1"),
        ({"attention_mask": ONES * math.nan}, "holds other numbers than 0 and 1"),
        (
            {"attention_mask": [[1] * 5, [0] * 5]},
            "row 1 of attention_mask is all padding: a prompt needs at least one",
        ),
        (
            {"attention_mask": [[1, 1, 1, 0, 0], [1] * 5]},
            r"row 0 of attention_mask has padding after .* on the left",
        ),
        (
            {"attention_mask": [[1] * 5, [0, 1, 0, 1, 1]]},
            "row 1 of attention_mask has padding after a token",
        ),
        (
            {"input_ids": [[0, 0, 5], [4, 5, 6]]},
            r"have 0 to 2 padding tokens \(0\) on the left, and there is no mask",
        ),
        ({"input_ids": [[5, 6, 0], [4, 5, 6]]}, r"have 0 to 1 padding tokens \(0\) on the right"),
        (
            {"input_ids": [[9, 9, 5], [9, 5, 6]], "pad_token_id": 9},
            r"have 1 to 2 padding tokens \(9\) on the left",
        ),
        (
            {"past_key_values": ()},
            "past_key_values cannot be passed: keys and positions follow from the prompts",
        ),
        (
            {"position_ids": ONES, "inputs_embeds": ONES},
            "position_ids, inputs_embeds cannot be passed",
        ),
        # What transformers passes over, or takes for True.
        ({"do_sample": "maybe"}, "do_sample is 'maybe': it must be True or False"),
        ({"max_length": 3}, "max_length is passed over where max_new_tokens is given"),
        ({"min_new_tokens": 5}, "min_new_tokens is 5, and max_new_tokens 2"),
        ({"top_p": 5, "do_sample": True}, "top_p is 5: it is a share"),
        # What it refuses, or fails with.
        ({"nonsense": 3}, "generation with nonsense=3 fails"),
        ({"num_beams": "x"}, "generation with num_beams='x' fails"),
        ({"num_beams": 0}, "generation with num_beams=0 fails"),
        ({"do_sample": True, "temperature": -1.0}, r"temperature=-1\.0 fails \(ValueError: `temp"),
        ({"streamer": 5}, "generation with streamer=5 fails"),
    ],
)
def test_what_cannot_be_asked(arguments, message):
    model = tiny_model()
    asked = {"input_ids": TEXT[:10].view(2, 5), "max_new_tokens": 2} | arguments
    with pytest.raises(ValueError, match=message):
        generate(model, schedule=schedules(rope_spec(model))["recovery"], **asked)


def test_a_mask_says_that_padding_is_text():
    """Rows of one length, with the padding token at one end or the other."""
    model = tiny_model()
    schedule = schedules(rope_spec(model))["recovery"]
    ids = torch.tensor([[0, 5, 6], [4, 5, 0]])
    out = generate(model, ids, schedule, attention_mask=torch.ones_like(ids), **STEPS)
    assert_each_step_is_from_scratch(model, schedule, out, [3, 3])
    model.generation_config.pad_token_id = None  # a model without one
    assert generate(model, ids, schedule, max_new_tokens=2).shape == (2, 5)


@pytest.mark.parametrize("wrong", [VOCABULARY, 5000, -1])
def test_ids_that_the_model_has_no_embedding_for(wrong):
    words = f"token id {wrong} is outside the model's vocabulary of {VOCABULARY}: tokenise with"
    with pytest.raises(ValueError, match=words):
        generate(tiny_model(), [[5, wrong, 7]], None, max_new_tokens=1)


def test_prompts_are_padded_as_a_tokenizer_does_it(tokenizer):
    """Without asking for a padding token, which many models (Llama 2) have none of."""
    given = [TEXT[:n].tolist() for n in (5, 9, 1)]
    expected = tokenizer.pad({"input_ids": given}, padding_side="left", return_tensors="pt")
    padded = left_padded(given)
    assert torch.equal(padded["attention_mask"], expected["attention_mask"])
    shown = padded["attention_mask"].bool()
    assert torch.equal(padded["input_ids"][shown], expected["input_ids"][shown])
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="each needs at least one"):
            left_padded(wrong)
