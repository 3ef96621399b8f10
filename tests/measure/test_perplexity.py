"""Perplexity against single-token predictions, one forward pass for each."""

import itertools
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import VOCABULARY, WINDOW, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from longrope_lab.measure import passes as passes_module
from longrope_lab.measure import perplexity as perplexity_module
from longrope_lab.measure.passes import LostProcessError, sliding_losses
from longrope_lab.measure.perplexity import COLUMNS, perplexity, perplexity_by
from longrope_lab.models.read_config import scaling_from_config
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.rope.scaling import RopeScaling
from longrope_lab.rope.schedule import DynamicNTK, RopeSchedule
from longrope_lab.searches import WorkerProcesses
from longrope_lab.texts.tokens import Document


def document(length, title="a", seed=0):
    return Document(title, np.random.default_rng(seed).integers(3, VOCABULARY, length))


@torch.no_grad()
def one_prediction(model, context, target):
    """Minus the log-probability of a token after its context, in nats."""
    logits = model(torch.tensor(np.array(context))[None]).logits[0, -1].double()
    return -torch.log_softmax(logits, -1)[target].item()


def by_brute_force(model, ids, length, stride):
    """Each token in the first window that holds it with something before it.

    Windows go on to the text's end."""
    losses, window = [], 0
    for t in range(1, len(ids)):
        while window + length <= t:
            window += stride
        if t > window:
            losses.append(one_prediction(model, ids[window:t], ids[t]))
    return losses


def spy(model):
    """The number of tokens of each forward pass, in turn."""
    seen = []
    model.model.embed_tokens.register_forward_pre_hook(
        lambda _, given: seen.append(given[0].shape[1])
    )
    return seen


# --- what turns the model alike ------------------------------------------------------------------


def test_what_turns_the_model_alike_is_read_once():
    """The tables are those of one scaling at a time."""
    model, docs = tiny_model(), [document(2 * WINDOW, "a", 0), document(2 * WINDOW, "b", 1)]
    spec, lengths = rope_spec(model), [WINDOW // 2, WINDOW, 2 * WINDOW]
    methods = ("none", "dynamic_ntk", "pi")
    groups = {f"{s}x": {m: rope_scaling(spec, m, s * WINDOW) for m in methods} for s in (2, 4)}
    alone = {
        (g, m): perplexity(model, docs, lengths, {m: scaling})
        for g, of in groups.items()
        for m, scaling in of.items()
    }
    seen = spy(model)
    tables = perplexity_by(model, docs, lengths, groups)
    # Each document: "none" once; Dynamic NTK inside the window, and at twice of it; "pi" for each.
    assert sorted(seen) == sorted(2 * [2 * WINDOW, WINDOW, 2 * WINDOW, 2 * WINDOW, 2 * WINDOW])
    for g, table in tables.items():
        pd.testing.assert_frame_equal(
            table, pd.concat([alone[g, m] for m in methods], ignore_index=True)
        )


def test_another_start_or_attention_factor_turns_it_otherwise():
    model, docs = tiny_model(), [document(WINDOW)]
    pi = rope_scaling(rope_spec(model), "pi", 2 * WINDOW)
    others = {"n": replace(pi, start_tokens=4), "m": replace(pi, attention_factor=1.1), "pi": pi}
    table = perplexity(model, docs, [WINDOW], others)
    assert table["loss"].nunique() == 3


# --- truncated ------------------------------------------------------------------------------------


def test_truncated_against_single_predictions():
    model, docs = tiny_model(), [document(30, "a", 0), document(40, "b", 1)]
    table = perplexity(model, docs, [2, 17, 30])
    assert list(table) == COLUMNS
    for row in table.itertuples():
        ids = docs["ab".index(row.document)].ids[: row.length]
        losses = [one_prediction(model, ids[:t], ids[t]) for t in range(1, row.length)]
        assert row.scaling == "model"
        assert row.tokens == row.length - 1
        assert row.loss == pytest.approx(np.mean(losses), abs=1e-5)
        assert row.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)


def test_rows_come_in_the_order_asked_for():
    """Scalings, then lengths, then documents, though one forward pass may serve several lengths."""
    model, docs = tiny_model(), [document(90, title, i) for i, title in enumerate("xay")]
    spec = rope_spec(model)
    names = ["yarn", "stock", "dynamic"]
    scalings = {"yarn": rope_scaling(spec, "yarn", 128), "stock": None, "dynamic": DynamicNTK(spec)}
    lengths = [80, 20, 90, 50]
    table = perplexity(model, docs, lengths, scalings)
    expected = [(name, length, title) for name in names for length in lengths for title in "xay"]
    assert (
        list(table[["scaling", "length", "document"]].itertuples(index=False, name=None))
        == expected
    )
    assert list(table.index) == list(range(len(expected)))


def test_lengths_share_a_forward_pass_and_change_nothing():
    model, docs = tiny_model(), [document(100, "a", 0), document(100, "b", 1)]
    spec = rope_spec(model)
    border = rope_scaling(spec, "pi", 2 * WINDOW)
    scalings = {
        "yarn": rope_scaling(spec, "yarn", 2 * WINDOW),  # one pass for all lengths
        "stages": RopeSchedule.by_length(
            [RopeScaling(spec, np.ones(8), WINDOW), border]
        ),  # two: either side of 64
        "dynamic": DynamicNTK(spec),  # two: inside the window it turns as the stages do
    }
    lengths = [100, 40, 64, 90]
    apart = {
        (name, length): perplexity(model, docs, [length], {name: scaling})["loss"].tolist()
        for name, scaling in scalings.items()
        for length in lengths
    }
    seen = spy(model)
    table = perplexity(model, docs, lengths, scalings)
    assert seen == [100, 100, 100, 100, 64, 64, 100, 100, 90, 90]
    for key, group in table.groupby(["scaling", "length"]):
        np.testing.assert_allclose(group["loss"], apart[key], atol=1e-6)


def test_the_model_as_it_stands_gets_a_pass_for_each_length():
    """Its own config may scale by the length, which a prefix of a longer pass would hide."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
    model, doc = tiny_model(rope_parameters=rope), document(100)
    table = perplexity(
        model, [doc], [100, 40], {"stock": None, "ours": scaling_from_config(model.config)}
    )
    alone = perplexity(model, [doc], [40])["loss"].item()
    stock, ours = (table[table["scaling"] == name]["loss"].to_numpy() for name in ("stock", "ours"))
    assert stock[1] == pytest.approx(alone, abs=1e-6)
    np.testing.assert_allclose(ours, stock, atol=1e-5)
    with apply_scaling(model, scaling_from_config(model.config), length=100):
        other = perplexity(model, [doc], [40])["loss"].item()
    assert abs(other - alone) > 1e-3  # what a shared pass would have given


def test_a_schedule_is_asked_for_each_length():
    model, doc = tiny_model(), document(100)
    spec = rope_spec(model)
    schedule = RopeSchedule.by_length(
        [rope_scaling(spec, "ntk", 80), rope_scaling(spec, "pi", 400)]
    )
    for stride in (None, 30):
        table = perplexity(model, [doc], [80, 81], {"s": schedule}, stride=stride)
        for length, loss in zip((80, 81), table["loss"], strict=True):
            fixed = perplexity(model, [doc], [length], {"s": schedule.at(length)}, stride=stride)
            assert loss == pytest.approx(fixed["loss"].item(), abs=1e-6)
        assert abs(table["loss"][0] - table["loss"][1]) > 1e-3


def test_the_model_is_left_without_a_scaling():
    model, doc = tiny_model(), document(100)
    before = perplexity(model, [doc], [90])["loss"].item()
    pi = rope_scaling(rope_spec(model), "pi", 256)
    assert perplexity(model, [doc], [90], {"pi": pi})["loss"].item() != before
    assert perplexity(model, [doc], [90])["loss"].item() == before
    with (
        mock.patch.object(passes_module, "token_losses", side_effect=KeyError),
        pytest.raises(KeyError),
    ):
        perplexity(model, [doc], [90], {"pi": pi})
    assert perplexity(model, [doc], [90])["loss"].item() == before


# --- sliding window -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "stride", "total"),
    [
        (8, 3, 25),
        (8, 1, 20),
        (8, 7, 29),
        (8, 4, 24),
        (8, 8, 24),
        (8, 8, 25),
        (8, 8, 26),
        (12, 5, 12),
        (2, 1, 9),
    ],
)
def test_sliding_window_against_single_predictions(length, stride, total):
    model, doc = tiny_model(), document(total)
    expected = by_brute_force(model, doc.ids, length, stride)
    np.testing.assert_allclose(sliding_losses(model, doc.ids, length, stride), expected, atol=1e-5)
    row = perplexity(model, [doc], [length], stride=stride).iloc[0]
    assert row["tokens"] == len(expected)
    assert row["loss"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(np.mean(expected)), rel=1e-5)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), length=st.integers(2, 12), total=st.integers(2, 60))
def test_every_token_is_counted_once_with_enough_context(data, length, total):
    stride = data.draw(st.integers(1, length))
    total = max(total, length)

    passes = []

    def position_and_context(model, window):  # ids are the positions themselves
        passes.append(window)
        assert 2 <= len(window) <= length
        assert window[0] % stride == 0
        return torch.tensor([100 * int(t) + j + 1 for j, t in enumerate(window[1:])])

    with mock.patch.object(passes_module, "token_losses", position_and_context):
        scored = sliding_losses(None, np.arange(total), length, stride)
    tokens, context = (scored // 100).astype(int), scored % 100
    if stride < length:
        assert tokens.tolist() == list(range(1, total))
    else:  # windows that do not overlap: their first tokens follow nothing
        assert tokens.tolist() == [t for t in range(1, total) if t % length]
    later = tokens >= length
    assert (context[~later] == tokens[~later]).all()  # the first window's tokens see all there is
    assert (context[later] >= max(length - stride, 1)).all()
    assert len(passes) <= 1 + math.ceil(
        (total - length) / stride
    )  # none for tokens that are counted already


def test_lengths_may_be_an_array():
    """And a stride or a length may be a float that is whole, as 4e3 is."""
    model, doc = tiny_model(), document(50)
    plain = perplexity(model, [doc], [20, 40], stride=10)
    assert perplexity(model, [doc], np.array([20, 40]), stride=np.int64(10)).equals(plain)
    assert perplexity(model, [doc], [2e1, 40.0], stride=10.0).equals(plain)


def test_a_window_as_long_as_the_document_is_the_truncated_mode():
    model, doc = tiny_model(), document(50)
    for stride in (1, 20, 50):
        assert perplexity(model, [doc], [50], stride=stride).equals(perplexity(model, [doc], [50]))


@pytest.mark.parametrize(("length", "stride", "total"), [(8, 3, 25), (8, 8, 25), (12, 5, 12)])
def test_each_window_may_begin_with_bos(length, stride, total):
    """In the place of its first token, which is only read."""
    model, doc = tiny_model(), document(total)
    plain = sliding_losses(model, doc.ids, length, stride)
    expected, scored = [], 0
    for start in range(0, total - 1, stride):
        window = [1, *doc.ids[start + 1 : start + length]]
        first = max(scored - start, 1)
        expected += [
            one_prediction(model, window[:t], window[t]) for t in range(first, len(window))
        ]
        scored = start + len(window)
        if scored == total:
            break
    losses = sliding_losses(model, doc.ids, length, stride, 1)
    np.testing.assert_allclose(losses, expected, atol=1e-5)
    assert len(losses) == len(plain) and np.abs(losses - plain).max() > 1e-3
    row = perplexity(model, [doc], [length], stride=stride, bos=1).iloc[0]
    assert row["loss"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert row["tokens"] == len(expected)
    whole = perplexity(model, [doc], [total], bos=1)
    assert whole.equals(perplexity(model, [doc], [total], stride=total, bos=1))


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("docs", "lengths", "stride", "message"),
    [
        ([], [8], None, "at least one document and one length"),
        ([document(20)], [], None, "at least one document and one length"),
        ([document(20)], [8, 1], None, "length is 1: lengths start at 2 tokens, of which"),
        ([document(20)], [8, 2.5], None, "length is 2.5: lengths start at 2 tokens, of which"),
        ([document(20)], [math.nan], None, "length is nan: lengths start at 2 tokens"),
        (
            [document(20), document(11, "short")],
            [8, 12],
            None,
            r"'short' has 11 tokens and length 12 asks for more: load documents with min_tokens=12",
        ),
        *(
            (
                [document(20)],
                [12, 8],
                stride,
                f"stride is {stride}: it must be a whole number from 1 to the shortest length, 8",
            )
            for stride in (0, 9, 2.5, math.nan)
        ),
    ],
)
def test_what_cannot_be_measured(docs, lengths, stride, message):
    with pytest.raises(ValueError, match=message):
        perplexity(None, docs, lengths, stride=stride)  # before the model is touched


def test_a_scaling_for_another_model():
    other = rope_scaling(rope_spec(tiny_model("gemma3")), "pi", 128)
    with pytest.raises(ValueError, match="this scaling is for rotary_dim 32"):
        perplexity(tiny_model(), [document(20)], [8], {"pi": other})


@pytest.mark.parametrize("bos", [-1, 1.5, math.nan, VOCABULARY])
def test_a_bos_that_is_no_token(bos):
    with pytest.raises(
        ValueError, match=f"bos is {bos}: it is a token id|token id {VOCABULARY} is"
    ):
        perplexity(tiny_model(), [document(20)], [8], bos=bos)


def test_no_scalings_are_no_measurement():
    for measure in (perplexity, perplexity_by):
        with pytest.raises(ValueError, match="scalings is empty, so there is nothing to measure"):
            measure(tiny_model(), [document(20)], [8], {})


@pytest.mark.parametrize("stride", [None, 4])
def test_a_loss_that_is_not_a_number_is_no_result(stride):
    model = tiny_model()
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    with pytest.raises(ValueError, match=r"the loss of 'a' at 8 tokens under 'model' is not a num"):
        perplexity(model, [document(20)], [8], stride=stride)


def test_scalings_need_names():
    model = tiny_model()
    scaling = rope_scaling(rope_spec(model), "pi", 2 * WINDOW)
    with pytest.raises(ValueError, match="scalings is a RopeScaling: name them"):
        perplexity(model, [Document("a", np.arange(8))], [8], scaling)


@pytest.mark.parametrize(("stride", "sizes"), [(None, [16, 16, 64, 64]), (8, [160, 128, 256, 128])])
def test_progress_counts_the_tokens_that_are_read(stride, sizes, monkeypatch):
    """A pass over a longer text is more of the work; each document has so many windows."""
    model, seen, read = tiny_model(), [], []

    def progress(items, what, sizes):
        seen.extend(sizes)
        return items

    def losses(model, ids):
        read.append(len(ids))
        return torch.zeros(len(ids) - 1)

    monkeypatch.setattr(perplexity_module, "progress", progress)
    monkeypatch.setattr(passes_module, "token_losses", losses)
    perplexity(model, [document(88), document(72, "b")], [16, 64], stride=stride)
    assert seen == sizes and sum(read) == sum(sizes)


def test_a_length_named_twice_is_measured_once():
    """Twice the same documents would make an interval too narrow."""
    docs = [Document("book", np.arange(3, 67))]
    lengths = [64, 32, 64]
    assert perplexity(tiny_model(), docs, lengths)["length"].tolist() == [64, 32]


# --- executors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [None, 16])
def test_an_executor_gives_the_same_table(stride):
    docs, lengths = [document(88), document(72, "b")], [48] if stride else [16, 64]
    pi = rope_scaling(rope_spec(tiny_model()), "pi", 256)
    given = docs, lengths, {"none": None, "pi": pi}, stride
    with ThreadPoolExecutor(1) as executor:
        table = perplexity(tiny_model, *given, executor=executor)
    pd.testing.assert_frame_equal(table, perplexity(tiny_model(), *given))


def dies_of_96():
    """A model that ends its process when a text begins with token 96."""
    model = tiny_model()
    kill = signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM
    model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: os.kill(os.getpid(), kill) if args[0][0, 0] == 96 else None
    )
    return model


def test_what_was_measured_is_kept_when_a_process_dies():
    deadly = Document("deadly", np.full(64, 96))
    pi = {"pi": rope_scaling(rope_spec(tiny_model()), "pi", 256)}  # one pass for both lengths
    with (
        WorkerProcesses(1) as executor,
        pytest.raises(LostProcessError, match="lost twice on 'deadly' at 64 tokens") as lost,
    ):
        perplexity(dies_of_96, [document(64), deadly], [32, 64], pi, executor=executor)
    expected = perplexity(tiny_model(), [document(64)], [32, 64], pi)
    pd.testing.assert_frame_equal(lost.value.measured, expected)
    assert "2 rows" in lost.value.__notes__[0]


def test_a_pass_whose_memory_ran_out_is_read_once_more(monkeypatch):
    failures = [torch.OutOfMemoryError("no room")] * 3
    stock = passes_module.token_losses

    def losses(model, ids):
        if len(ids) == 64 and failures:
            raise failures.pop()
        return stock(model, ids)

    monkeypatch.setattr(passes_module, "token_losses", losses)
    docs = [document(64)]
    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(LostProcessError, match=r"twice on .* \(OutOfMemoryError: no"):
            perplexity(tiny_model, docs, [32, 64], executor=executor)
        table = perplexity(tiny_model, docs, [32, 64], executor=executor)
    pd.testing.assert_frame_equal(table, perplexity(tiny_model(), docs, [32, 64]))


def test_what_is_wrong_with_a_pass_is_said_as_it_is():
    wrong = Document("wrong", np.full(64, VOCABULARY))
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="vocabulary"):
        perplexity(tiny_model, [wrong], [64], executor=executor)


def test_threads_take_turns_with_a_model():
    """Else one would read under the other's scaling."""
    spec = rope_spec(tiny_model())
    scalings = {f"{n}": rope_scaling(spec, "pi", n * WINDOW) for n in (2, 4, 8, 16)}
    with ThreadPoolExecutor(4) as executor:
        table = perplexity(tiny_model, [document(64)], [64], scalings, executor=executor)
    pd.testing.assert_frame_equal(table, perplexity(tiny_model(), [document(64)], [64], scalings))


def test_each_call_asks_for_the_model_again():
    """The same function may give another one: a folder that was trained on, say."""
    seeds = [0, 1]

    def next_model():
        return tiny_model(seed=seeds.pop(0))

    with ThreadPoolExecutor(1) as executor:
        first, second = (
            perplexity(next_model, [document(64)], [64], executor=executor)["loss"].item()
            for _ in range(2)
        )
    assert first != second


def test_a_live_model_and_one_that_cannot_be_sent_are_refused():
    with WorkerProcesses(1) as executor:
        with pytest.raises(ValueError, match="workers load the model themselves"):
            perplexity(tiny_model(), [document(64)], [64], executor=executor)
        with pytest.raises(ValueError, match="neither a lambda nor a function inside"):
            perplexity(lambda: tiny_model(), [document(64)], [64], executor=executor)


# --- a checkpoint --------------------------------------------------------------------------------


def test_a_measurement_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    """Killed at the third document, it reads that one alone, and the table is the same."""
    model, kept = tiny_model(), tmp_path / "new" / "read.jsonl"
    docs = [document(64, name, seed) for seed, name in enumerate("abc")]
    spec = rope_spec(model)
    scalings = {m: rope_scaling(spec, m, 256) for m in ("pi", "ntk")} | {"none": None}
    given = docs, [32, 64], scalings
    expected, passes = perplexity(model, *given), 2 * 3 + 3 * 2  # none: each length is its own
    stock, left = passes_module.token_losses, [2]

    def losses(model, ids):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return stock(model, ids)

    monkeypatch.setattr(passes_module, "token_losses", losses)
    with pytest.raises(KeyboardInterrupt):
        perplexity(model, *given, checkpoint=kept)
    left[0] = passes - 2  # as many as are left, and not one more
    pd.testing.assert_frame_equal(perplexity(model, *given, checkpoint=kept), expected)
    assert left == [0]
    pd.testing.assert_frame_equal(perplexity(model, *given, checkpoint=kept), expected)


def test_a_checkpoint_takes_nothing_that_another_model_or_scaling_gave(tmp_path):
    model, kept = tiny_model(), tmp_path / "read.jsonl"
    spec, given = rope_spec(model), ([document(64)], [64])
    pi = rope_scaling(spec, "pi", 256)

    def measured(of=model, scalings=None, **options):
        table = perplexity(of, *given, scalings, checkpoint=kept, **options)
        pd.testing.assert_frame_equal(table, perplexity(of, *given, scalings, **options))
        return table["loss"].item()

    found = [measured(), measured(scalings={"pi": pi}), measured(stride=8), measured(bos=1)]
    with apply_scaling(model, rope_scaling(spec, "ntk", 256)):  # what stands is what counts
        found.append(measured())
    found.append(measured(scalings={"pi": replace(pi, attention_factor=1.2)}))
    found.append(measured(scalings={"pi": replace(pi, start_tokens=4)}))
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    found.append(measured())
    with WorkerProcesses(1) as executor:
        table = perplexity(tiny_model, *given, executor=executor, checkpoint=kept)
    assert table["loss"].item() == found[0]
    assert len({round(loss, 12) for loss in found}) == len(found) - 1  # a stride of one window


def test_a_checkpoint_takes_nothing_that_looks_alike(tmp_path):
    """One weight of many, another attention, and local layers that no scaling reaches."""
    model, kept = tiny_model("gemma3"), tmp_path / "read.jsonl"
    pi = {"pi": rope_scaling(rope_spec(model), "pi", 256)}

    def measured():
        table = perplexity(model, [document(64)], [64], pi, checkpoint=kept)
        pd.testing.assert_frame_equal(table, perplexity(model, [document(64)], [64], pi))
        assert len(kept.read_text().splitlines()) == 1 + next(lines)

    lines = itertools.count(1)
    measured()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] += 50  # no sample may have it
    measured()
    model.set_attn_implementation("eager")
    measured()
    model.model.rotary_emb.sliding_attention_inv_freq.mul_(0.5)
    measured()


@pytest.mark.parametrize(
    "change", [b'{"kind": "else"}\n', b"[1]\n", b"losses\n", b"one line", b"\x00\x01"]
)
def test_a_file_that_is_no_checkpoint_is_refused_and_kept(tmp_path, change):
    (tmp_path / "read.jsonl").write_bytes(change)
    with pytest.raises(ValueError, match=r"read.jsonl is not the checkpoint of a perplexity"):
        perplexity(tiny_model(), [document(64)], [64], checkpoint=tmp_path / "read.jsonl")
    assert (tmp_path / "read.jsonl").read_bytes() == change
    for place, reason in ((tmp_path, "is a folder"), (os.devnull, "keeps nothing")):
        with pytest.raises(ValueError, match=reason):
            perplexity(tiny_model(), [document(64)], [64], checkpoint=place)


def test_a_checkpoint_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    perplexity(tiny_model(), [document(64)], [64], checkpoint="~/read.jsonl")
    assert (tmp_path / "read.jsonl").is_file()


def test_a_checkpoint_in_use_is_refused(tmp_path, monkeypatch):
    """Two that write to one file would cut and mix each other's lines."""
    kept, given = tmp_path / "read.jsonl", (tiny_model(), [document(64)], [64])
    stock = passes_module.token_losses

    def losses(model, ids):
        with pytest.raises(ValueError, match=r"another measurement is writing to .*read\.jsonl"):
            perplexity(*given, checkpoint=kept)
        return stock(model, ids)

    with monkeypatch.context() as patch:
        patch.setattr(passes_module, "token_losses", losses)
        expected = perplexity(*given, checkpoint=kept)
    pd.testing.assert_frame_equal(perplexity(*given, checkpoint=kept), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["read.jsonl"]


def test_a_checkpoint_that_was_cut_or_changed(tmp_path):
    """Half a line is measured again; a changed number is refused."""
    kept, given = tmp_path / "read.jsonl", (tiny_model(), [document(64)], [32, 64])
    expected = perplexity(*given, checkpoint=kept)
    whole = kept.read_bytes()
    for cut in (1, 30, len(whole)):
        kept.write_bytes(whole[: len(whole) - cut])
        pd.testing.assert_frame_equal(perplexity(*given, checkpoint=kept), expected)
        assert kept.read_bytes() == whole
    kept.write_bytes(whole.replace(b'"found": [[31, ', b'"found": [[30, '))
    with pytest.raises(ValueError, match="a number was changed"):
        perplexity(*given, checkpoint=kept)
