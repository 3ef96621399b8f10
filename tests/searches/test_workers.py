"""Searches on threads, processes and Dask give what one process gives, also when workers die."""

import functools
import logging
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
import torch
from conftest import tiny_model
from test_run import DOCS, EVOLUTION, LENGTH, METHODS, assert_same

from longrope_lab.searches import Budget, Random, WorkerProcesses, search
from longrope_lab.searches import workers as workers_module

# Enough of each method to have two rounds; on processes these two.
ON_PROCESSES = {"racing": METHODS["racing"], "gradient": METHODS["gradient"]}


def load(folder, seed=0):
    """A model, and a line in a file that says which process made it."""
    with (Path(folder) / "loads").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return tiny_model(seed=seed)


def loads(folder):
    """The processes that made a model, this one left out."""
    pids = [int(line) for line in (Path(folder) / "loads").read_text().split()]
    return [pid for pid in pids if pid != os.getpid()]


def load_mortal(folder, parent, seed, dies):
    """A model that dies in workers: the first time or always.

    It dies while it is loaded, or in its fifth forward pass."""
    deaths, passes = Path(folder) / "deaths", []

    def maybe_die():
        if os.getpid() != parent and (dies.endswith("always") or not deaths.exists()):
            with deaths.open("a") as file:
                file.write("x")
            os._exit(1)

    def count_passes(*_):
        passes.append(1)
        if len(passes) == 5:
            maybe_die()

    model = load(folder, seed)
    if dies.startswith("loading"):
        maybe_die()
    else:
        model.model.layers[0].register_forward_pre_hook(count_passes)
    return model


def load_nothing(parent):
    if os.getpid() != parent:
        raise OSError("no model on this machine")
    return tiny_model(seed=99)


@pytest.fixture(scope="module")
def expected():
    torch.set_num_threads(1)
    return functools.cache(
        lambda name, seed=0: search(tiny_model(seed=seed), DOCS, LENGTH, METHODS[name], seed=4)
    )


@pytest.fixture(scope="module")
def processes():
    """Two of them for all tests here, since each takes seconds to start."""
    with WorkerProcesses(2) as executor:
        yield executor


class Scripted(Executor):
    """Runs a task as it comes, in this process, unless `fate` of its number raises an error or
    returns a future.

    All are done when the search begins to wait, which then gets them in no particular order.
    """

    def __init__(self, fate=lambda number: None):
        self.fate, self.count = fate, 0

    def submit(self, fn, /, *args, **kwargs):
        self.count += 1
        future = Future()
        try:
            instead = self.fate(self.count)
            if instead is not None:
                return instead
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def dead(*numbers):
    def fate(number):
        if number in numbers:
            raise BrokenProcessPool("the process was killed")

    return fate


# --- the same as in one process -------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "make", [Scripted, lambda: ThreadPoolExecutor(3)], ids=["in any order", "threads"]
)
def test_in_this_process(name, make, expected, tmp_path):
    with make() as executor:
        result = search(
            functools.partial(load, tmp_path),
            DOCS,
            LENGTH,
            METHODS[name],
            seed=4,
            executor=executor,
        )
    assert_same(result, expected(name))
    assert result.seconds > 0


def test_threads_share_one_model(expected, tmp_path):
    make = functools.partial(load, tmp_path, 31)
    with ThreadPoolExecutor(3) as executor:
        for name in ("evolution", "gradient"):
            assert_same(
                search(make, DOCS, LENGTH, METHODS[name], seed=4, executor=executor),
                expected(name, 31),
            )
    assert (
        len((tmp_path / "loads").read_text().split()) == 2 + 1
    )  # one a search to know it by, one to measure on


def test_worker_processes(processes, expected, tmp_path):
    make = functools.partial(load, tmp_path, 1)
    for name, method in ON_PROCESSES.items():
        assert_same(
            search(make, DOCS, LENGTH, method, seed=4, executor=processes), expected(name, 1)
        )
    assert 1 <= len(set(loads(tmp_path))) <= 2
    assert len(loads(tmp_path)) == len(set(loads(tmp_path)))  # each worker loads once


def test_dask(expected, tmp_path):
    from distributed import Client, LocalCluster

    make = functools.partial(load, tmp_path, 2)
    cluster = LocalCluster(
        n_workers=2,
        processes=True,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    )
    with cluster, Client(cluster) as client:
        executor = client.get_executor()
        for name, method in ON_PROCESSES.items():
            assert_same(
                search(make, DOCS, LENGTH, method, seed=4, executor=executor), expected(name, 2)
            )
        executor.shutdown()
        with pytest.raises(ValueError, match="the executor takes no work"):
            search(make, DOCS, LENGTH, Random(1), executor=executor)
    assert 1 <= len(set(loads(tmp_path))) <= 2
    assert len(loads(tmp_path)) == len(set(loads(tmp_path)))


def test_a_worker_changes_its_model(expected):
    with ThreadPoolExecutor(1) as executor:
        for seed in (0, 7, 0):
            make = functools.partial(tiny_model, seed=seed)
            assert_same(
                search(make, DOCS, LENGTH, EVOLUTION, seed=4, executor=executor),
                expected("evolution", seed),
            )


def test_a_worker_changes_its_model_when_the_config_alone_differs():
    """Cohere multiplies its logits by a number of its config."""
    with ThreadPoolExecutor(1) as executor:
        for scale in (0.5, 0.05):
            make = functools.partial(tiny_model, "cohere", logit_scale=scale)
            on_worker = search(make, DOCS, LENGTH, Random(3), executor=executor)
            assert_same(on_worker, search(make(), DOCS, LENGTH, Random(3)))


# --- budgets and checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize("budget", [Budget(candidates=8), Budget(tokens=26 * LENGTH)])
def test_a_budget_on_workers(budget, expected):
    with ThreadPoolExecutor(2) as executor:
        result = search(
            tiny_model, DOCS, LENGTH, EVOLUTION, seed=4, budget=budget, executor=executor
        )
    assert len(result.history) == 8 and not result.finished
    assert_same(result, expected("evolution"), 8)


def test_a_budget_of_seconds_gives_up_what_is_waiting():
    """Trials not begun are cancelled; those before the first that is missing are the result."""
    later = [Future() for _ in range(6)]
    executor = Scripted(lambda number: later[number - 1] if number > 1 else None)
    result = search(
        tiny_model, DOCS, LENGTH, EVOLUTION, budget=Budget(seconds=1e-9), executor=executor
    )
    assert len(result.history) == 1 and not result.finished
    assert [future.cancelled() for future in later] == [False] + 5 * [True]


@pytest.mark.parametrize("name", ["racing", "gradient"])
def test_going_on_with_other_workers(name, expected, tmp_path):
    """A checkpoint does not care who measured, or in which order its lines came."""
    call = {"docs": DOCS, "target_length": LENGTH, "method": METHODS[name], "seed": 4}
    call |= {"checkpoint": tmp_path / "log"}
    search(tiny_model, budget=Budget(candidates=5), executor=Scripted(), **call)
    search(tiny_model(), budget=Budget(candidates=11), **call)
    with ThreadPoolExecutor(2) as executor:
        assert_same(search(tiny_model, executor=executor, **call), expected(name))
    lines = (tmp_path / "log").read_text().splitlines()
    (tmp_path / "log").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    executor = Scripted()
    assert_same(search(tiny_model, executor=executor, **call), expected(name))
    assert executor.count == 0


def test_ctrl_c_while_waiting(expected, tmp_path, capsys):
    waiting = [Future() for _ in range(3)]

    def fate(number):
        if number == 10:  # the fourth trial of the second round
            raise KeyboardInterrupt
        return waiting[number - 11] if 10 < number <= 12 else None

    call = {
        "docs": DOCS,
        "target_length": LENGTH,
        "method": EVOLUTION,
        "seed": 4,
        "checkpoint": tmp_path / "log",
    }
    try:
        result = search(tiny_model, executor=Scripted(fate), **call)
    except KeyboardInterrupt:  # would end all tests
        pytest.fail("it was not caught")
    assert not result.finished and 6 <= len(result.history) <= 9
    assert_same(result, expected("evolution"), len(result.history))
    assert "stopped by hand" in capsys.readouterr().err
    assert [future.cancelled() for future in waiting] == [True, True, False]
    assert_same(search(tiny_model, executor=Scripted(), **call), expected("evolution"))


# --- deaths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(1,), (3, 9), tuple(range(1, 7)), (4, 24)])
def test_a_death_costs_one_more_try(numbers, expected):
    executor = Scripted(dead(*numbers))
    assert_same(
        search(tiny_model, DOCS, LENGTH, EVOLUTION, seed=4, executor=executor),
        expected("evolution"),
    )
    assert executor.count == 24 + len(numbers)


def test_a_cancelled_task_counts_as_a_death(expected):
    def fate(number):
        if number == 3:
            raise CancelledError

    assert_same(
        search(tiny_model, DOCS, LENGTH, EVOLUTION, seed=4, executor=Scripted(fate)),
        expected("evolution"),
    )


def test_dying_twice(tmp_path):
    """A trial of the first round and its second try; what the others measured is kept."""
    executor = Scripted(dead(2, 7))
    call = {
        "docs": DOCS,
        "target_length": LENGTH,
        "method": EVOLUTION,
        "checkpoint": tmp_path / "log",
    }
    message = (
        r"a worker died twice on the same trial \(BrokenProcessPool: the process was killed\): it "
        "may be out of"
    )
    with pytest.raises(RuntimeError, match=message):
        search(tiny_model, executor=executor, **call)
    kept = (tmp_path / "log").read_text().count("\n") - 1
    assert kept <= 5
    executor = Scripted()
    result = search(tiny_model, executor=executor, **call)
    assert result.finished and executor.count == 24 - kept


@pytest.mark.parametrize(("dies", "seed"), [("loading, once", 11), ("measuring, once", 12)])
def test_a_process_that_dies_once(dies, seed, processes, expected, tmp_path):
    make = functools.partial(load_mortal, tmp_path, os.getpid(), seed, dies)
    assert_same(
        search(make, DOCS, LENGTH, EVOLUTION, seed=4, executor=processes),
        expected("evolution", seed),
    )
    assert 1 <= len((tmp_path / "deaths").read_text()) <= 2  # two may die at the same moment
    assert len(loads(tmp_path)) == len(set(loads(tmp_path)))


def test_a_process_that_dies_every_time(processes, tmp_path):
    make = functools.partial(load_mortal, tmp_path, os.getpid(), 13, "loading, always")
    with pytest.raises(
        RuntimeError, match=r"a worker died twice on the same trial \(BrokenProcessPool: "
    ):
        search(make, DOCS, LENGTH, Random(1), executor=processes)
    assert (tmp_path / "deaths").read_text() == "xx"
    assert search(
        tiny_model, DOCS, LENGTH, Random(1), executor=processes
    ).finished  # the pool is as good as new


def test_a_pool_that_does_not_replace_its_dead(tmp_path):
    make = functools.partial(load_mortal, tmp_path, os.getpid(), 14, "loading, always")
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(
            ValueError, match=r"takes no work \(BrokenProcessPool: .*\(WorkerProcesses replaces"
        ),
    ):
        search(make, DOCS, LENGTH, Random(2), executor=executor)


def test_what_goes_wrong_in_a_worker_comes_back(processes):
    with pytest.raises(RuntimeError, match="measuring failed on a worker:\nTraceback") as caught:
        search(
            functools.partial(load_nothing, os.getpid()),
            DOCS,
            LENGTH,
            Random(2),
            executor=processes,
        )
    assert "in load_nothing" in str(caught.value) and "OSError: no model on this machine" in str(
        caught.value
    )


def test_what_goes_wrong_in_measuring_comes_back(tmp_path):
    def broken():
        model = tiny_model(seed=15)
        model.lm_head.register_forward_hook(lambda *_: 1 / 0)
        return model

    with pytest.raises(
        RuntimeError, match=r"(?s)measuring failed on a worker:.*token_losses.*ZeroDivisionError"
    ):
        search(broken, DOCS, LENGTH, Random(2), executor=Scripted(), checkpoint=tmp_path / "log")
    assert (tmp_path / "log").read_text().count("\n") == 1


@pytest.mark.parametrize(
    "make", [lambda: ThreadPoolExecutor(1), lambda: WorkerProcesses(1)], ids=["threads", "ours"]
)
def test_an_executor_that_was_shut_down(make):
    executor = make()
    executor.shutdown()
    message = (
        "the executor takes no work (RuntimeError: cannot schedule new futures after shutdown): it "
        "was shut down"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        search(tiny_model, DOCS, LENGTH, Random(1), executor=executor)


def test_a_live_model_cannot_go_to_workers():
    executor = Scripted()
    with pytest.raises(
        ValueError,
        match="workers load the model themselves: with executor=, pass a name for load_mod",
    ):
        search(tiny_model(), DOCS, LENGTH, executor=executor)
    assert executor.count == 0


def test_a_model_that_cannot_be_sent_is_told_at_once(tmp_path):
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        pytest.raises(ValueError, match=r"the model cannot be sent to workers .*: pass a name"),
    ):
        search(lambda: tiny_model(), DOCS, LENGTH, Random(1), executor=pool)


# --- WorkerProcesses ------------------------------------------------------------------------------


def test_a_death_is_the_deaths_of_one_task(processes):
    """As with any executor otherwise: results, errors, `map`."""
    tasks = [processes.submit(pow, 2, n) for n in range(6)]
    killed = processes.submit(os._exit, 1)
    tasks += [processes.submit(pow, 2, n) for n in range(6, 12)]
    with pytest.raises(BrokenProcessPool):
        killed.result()
    assert [task.result() for task in tasks] == [2**n for n in range(12)]
    assert list(processes.map(pow, [2, 3, 4], [3, 3, 3])) == [8, 27, 64]
    with pytest.raises(ZeroDivisionError):
        processes.submit(divmod, 1, 0).result()
    assert processes.submit(torch.get_num_threads).result() == 1
    assert processes.submit(os.getpid).result() != os.getpid()


@pytest.fixture
def pools(monkeypatch):
    """What each process would be started with, without starting any."""
    made = []
    monkeypatch.setattr(
        workers_module, "ProcessPoolExecutor", lambda *arguments: made.append(arguments)
    )
    return made


@pytest.mark.parametrize(
    ("gpus", "visible", "count", "devices"),
    [
        (0, None, 3, ["", "", ""]),
        (2, None, None, ["0", "1"]),
        (2, None, 5, ["0", "1", "0", "1", "0"]),
        (2, None, 1, ["0"]),
        (
            2,
            "2,3",
            None,
            ["2", "3"],
        ),  # on a shared machine: the GPUs that this process may use, and no others
        (2, "GPU-aaaa,GPU-bbbb", 2, ["GPU-aaaa", "GPU-bbbb"]),
    ],
)
def test_each_process_has_a_gpu(gpus, visible, count, devices, pools, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    WorkerProcesses(count, threads=3)
    assert [initial[3] for initial in pools] == [(device, 3) for device in devices]


def test_a_process_a_core_without_a_gpu(pools, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 5, 7}, raising=False)
    WorkerProcesses()
    assert len(pools) == 5 and {context.get_start_method() for _, context, *_ in pools} == {"spawn"}


@pytest.mark.parametrize(
    ("count", "threads", "message"),
    [
        (0, 1, "count is 0: it must be a whole number from 1"),
        (-1, 1, "count is -1: it must be a whole number from 1"),
        (1.5, 1, "count is 1.5: it must be a whole number or None"),
        (2, 0, "threads is 0: it must be a whole number from 1"),
        (None, -2, "threads is -2: it must be a whole number from 1"),
        (2, 1.5, "threads is 1.5: it must be a whole number"),
        (2, math.nan, "threads is nan: it must be a whole number"),
    ],
)
def test_numbers_that_cannot_be(count, threads, message, pools):
    with pytest.raises(ValueError, match=f"{message}$"):
        WorkerProcesses(count, threads=threads)
    assert pools == []


def test_an_end_without_a_beginning():
    executor = WorkerProcesses(2)
    executor.shutdown()
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(pow, 2, 3)


# --- ends that nobody announced -------------------------------------------------------------------


def test_a_process_that_dies_between_two_tasks_costs_nothing():
    """The system takes the memory of idle processes first; both here, and again."""
    with WorkerProcesses(2) as executor:
        for _ in range(2):
            for pid in {executor.submit(os.getpid).result() for _ in range(8)}:
                os.kill(pid, signal.SIGKILL)
            assert executor.submit(sum, [1, 2]).result() == 3
            assert executor.submit(sum, [3, 4]).result() == 7


ORPHANS = """
import os, sys, time
from longrope_lab.searches import WorkerProcesses

if __name__ == "__main__":
    executor = WorkerProcesses(2)
    tasks = [executor.submit(os.getpid) for _ in range(4)]
    print(*{task.result() for task in tasks}, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(end, tmp_path):
    """However it ends; on a GPU they would hold its memory for ever."""
    script = tmp_path / "parent.py"
    script.write_text(ORPHANS)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert pids and all(psutil.pid_exists(pid) for pid in pids)
    parent.send_signal(end)
    parent.wait()
    patience = time.monotonic() + 120
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < patience:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))
