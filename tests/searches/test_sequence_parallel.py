"""Two processes on CPUs read a text together, against one of them alone."""

import os
import signal
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from conftest import VOCABULARY, WINDOW, tiny_model

from longrope_lab import SequenceParallel
from longrope_lab.measure.perplexity import perplexity
from longrope_lab.models import split
from longrope_lab.models.compiling import compiled
from longrope_lab.models.forward import mean_loss, recomputing, token_losses
from longrope_lab.models.rotary import apply_scaling, rope_spec
from longrope_lab.rope.methods import rope_scaling
from longrope_lab.searches import Gradient, search, sequence_parallel
from longrope_lab.searches.objective import Objective, Trial
from longrope_lab.texts.tokens import Document

TOKENS = 133  # not a multiple of the four chunks


@pytest.fixture(scope="module")
def team():
    """Two processes, which split texts from 64 tokens on."""
    with SequenceParallel(2, split_from=64) as made:
        yield made


def text(tokens=TOKENS, seed=0):
    return torch.randint(3, VOCABULARY, (tokens,), generator=torch.Generator().manual_seed(seed))


def scaling_for(model, start_tokens=0):
    yarn = rope_scaling(rope_spec(model), "yarn", 4 * WINDOW)
    return replace(yarn, start_tokens=start_tokens)


def losses_of(family, start_tokens):
    """Losses, as loaded and under a scaling; how many collective calls of attention there were."""
    model = tiny_model(family)
    calls = []
    gather = split._gather_heads
    split._gather_heads = lambda *given: calls.append(1) or gather(*given)
    plain = token_losses(model, text())
    with apply_scaling(model, scaling_for(model, start_tokens)):
        scaled = token_losses(model, text())
    split._gather_heads = gather
    return plain.numpy(), scaled.numpy(), len(calls)


def gradient_of(family, last, answers=False):
    """The trial of a search: its loss and the gradient by log factors and log m."""
    model = tiny_model(family)
    marks = np.arange(TOKENS) % 5 == 0 if answers else None
    document = Document("text", text().numpy(), marks)
    trial = Trial("step", scaling_for(model, 9), (0,), gradient=True)
    return Objective.of([document], TOKENS, last).measure(model, trial)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "cohere", "gpt_neox"])
def test_losses_are_those_of_one_process(team, family):
    """Grouped heads, norms of heads, joined projections, other layouts, a turned quarter."""
    plain, scaled, calls = team.submit(losses_of, family, 9).result()
    theirs = losses_of(family, 9)
    assert calls > 0 and theirs[2] == 0
    np.testing.assert_allclose(plain, theirs[0], atol=1e-5)
    np.testing.assert_allclose(scaled, theirs[1], atol=1e-5)
    assert np.abs(plain - scaled).max() > 0.05


@pytest.mark.parametrize(("last", "answers"), [(None, False), (20, False), (60, True)])
def test_gradients_are_those_of_one_process(team, last, answers):
    ours = team.submit(gradient_of, "llama", last, answers).result()
    theirs = gradient_of("llama", last, answers)
    assert ours.losses == pytest.approx(theirs.losses, abs=1e-5)
    largest = max(map(abs, theirs.gradient))
    np.testing.assert_allclose(ours.gradient, theirs.gradient, atol=1e-4 * largest)
    assert largest > 1e-3


def weights_of(again):
    """The gradient of each weight, summed over processes, where layers are computed twice."""
    model = tiny_model()
    with recomputing(model):
        mean_loss(model, text()[None]).backward()
    gradients = [p.grad for p in model.parameters()]
    if again:
        for gradient in gradients:
            dist.all_reduce(gradient)
    return [gradient.numpy() for gradient in gradients]


def test_gradients_of_weights_add_up_to_those_of_one_process(team):
    ours, theirs = team.submit(weights_of, True).result(), weights_of(False)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-3)


def losses_compiled():
    model = tiny_model()
    with compiled(model, backend="eager"):
        return token_losses(model, text()).numpy()


def test_compiled_layers_step_aside(team):
    """Their attention was compiled for texts of one process."""
    losses = team.submit(losses_compiled).result()
    np.testing.assert_allclose(losses, token_losses(tiny_model(), text()).numpy(), atol=1e-5)


def short_text():
    """Below the length to split from."""
    model = tiny_model()
    token_losses(model, text(60))
    return dist.get_rank()


def test_short_texts_take_a_process_each(team):
    assert team.of_length(64) is team
    alone = team.of_length(63)
    tasks = [alone.submit(short_text) for _ in range(6)]
    assert {task.result() for task in tasks} <= {0, 1}


def losses_with(what, rank=1):
    """The text's losses, where one process holds something else."""
    other = dist.get_rank() == rank
    model = tiny_model(seed=int(what == "model" and other))
    name = "yarn" if what == "rotation" and other else "ntk"
    ids = text(TOKENS + (what == "tokens" and other), seed=int(what == "text" and other))
    with apply_scaling(model, rope_scaling(rope_spec(model), name, 4 * WINDOW)):
        return token_losses(model, ids)


@pytest.mark.parametrize("what", ["model", "text", "tokens", "rotation"])
def test_processes_that_hold_different_things_are_refused(team, what):
    with pytest.raises(ValueError, match=f"processes 0 and 1 do not hold the same .*{what}: "):
        team.submit(losses_with, what).result()
    team.submit(losses_with, "nothing").result()  # and go on


def losses_of_refused(family):
    return token_losses(tiny_model(family), text())


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "gpt_oss"])
def test_layers_that_see_something_else_are_refused(team, family):
    with pytest.raises(ValueError, match="several GPUs cannot share a text there"):
        team.submit(losses_of_refused, family).result()


def losses_without_what_comes_before():
    """Attention to a process's own chunks alone, which is quick and wrong."""
    parts = split._parts
    split._parts = lambda *given: parts(*given)[:1]
    try:
        return token_losses(tiny_model(), text())
    finally:
        split._parts = parts


def test_what_one_process_does_not_find_is_refused(team):
    with pytest.raises(ValueError, match="find other losses than one of them alone, apart by"):
        team.submit(losses_without_what_comes_before).result()


def test_a_table_of_perplexities_and_a_search(team):
    docs = [Document(str(n), text(n).numpy()) for n in (133, 70, 50, 45)]
    for length in (133, 64, 45):  # of all together, and of a process each
        here = perplexity(tiny_model(), [d for d in docs if len(d) >= length], [length])
        there = perplexity(tiny_model, [d for d in docs if len(d) >= length], [length],
                           executor=team)  # fmt: skip
        pd.testing.assert_frame_equal(there, here, atol=1e-5, rtol=0)
    settings = Gradient(steps=2, validate_every=1)
    ours = search(tiny_model, docs[:1], 128, settings, executor=team)
    theirs = search(tiny_model(), docs[:1], 128, settings)
    assert ours.best_loss == pytest.approx(theirs.best_loss, abs=1e-4)


def lose(rank):
    if dist.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    return token_losses(tiny_model(), text())  # the other one waits for it here


def fail(rank):
    if dist.get_rank() == rank:
        raise KeyError("alone")
    return token_losses(tiny_model(), text())


def test_a_lost_process_ends_the_task_and_the_next_begins_anew(team):
    with pytest.raises(KeyError, match="alone"):
        team.submit(fail, 1).result(timeout=120)
    with pytest.raises(BrokenProcessPool):
        team.submit(lose, 1).result(timeout=120)
    losses = team.submit(losses_of, "llama", 0).result(timeout=240)
    np.testing.assert_allclose(losses[0], losses_of("llama", 0)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"count": 0}, "count"), ({"threads": 0}, "threads"), ({"split_from": 0.5}, "split_from")],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SequenceParallel(**options)


def test_a_count_that_is_not_the_launchers(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="the launcher started 2 processes"):
        SequenceParallel(3)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(sequence_parallel, "visible_gpus", lambda: ["GPU-a", "GPU-b"])
    assert SequenceParallel().count == 2
    with pytest.raises(ValueError, match="count is 3, and this process sees 2 GPUs"):
        SequenceParallel(3)


LAUNCHED = """
import sys
sys.path.insert(0, {tests!r})
from test_sequence_parallel import launched_tables
launched_tables({folder!r})
"""


def launched_tables(folder):
    """In each process of a launcher: losses of a text that is shared, and of short ones."""
    with SequenceParallel(split_from=64) as team:
        plain, _, calls = team.submit(losses_of, "llama", 0).result()
        docs = [Document(str(n), text(n).numpy()) for n in (50, 45, 60)]
        table = perplexity(tiny_model(), docs, [45], executor=team)
        kept = Path(folder, "read.jsonl")  # which one of them writes, for all
        for some in (docs[:2], docs):
            again = perplexity(tiny_model(), some, [45], executor=team, checkpoint=kept)
        assert again.equals(table)
        assert dist.get_rank() or len(kept.read_text().splitlines()) == 1 + len(docs)
        with pytest.raises(ValueError, match="launcher started 2 processes, and a search decides"):
            search(tiny_model, docs, 45, executor=team)
        assert calls > 0
        np.save(Path(folder, f"{dist.get_rank()}.npy"), [*plain, *table["loss"]])


def test_processes_of_torchrun(tmp_path):
    script, tests = tmp_path / "script.py", Path(__file__).parent
    script.write_text(LAUNCHED.format(tests=str(tests), folder=str(tmp_path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    path = os.pathsep.join([str(tests.parent), *sys.path])
    done = subprocess.run(
        [*command, str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    docs = [Document(str(n), text(n).numpy()) for n in (50, 45, 60)]
    expected = [*losses_of("llama", 0)[0], *perplexity(tiny_model(), docs, [45])["loss"]]
    for rank in (0, 1):
        np.testing.assert_allclose(np.load(tmp_path / f"{rank}.npy"), expected, atol=1e-5)
