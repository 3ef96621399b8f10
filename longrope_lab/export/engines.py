"""Engines that run in this process: llama.cpp, mlx-lm, CTranslate2. None of them is required.

Each takes a file or folder, and answers as a server does (`servers.Engine`).
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..common.checks import unknown
from ..common.files import at_home
from .servers import MOST_LIKELY, Answers, Engine, find_server

# What each engine is imported as, and how it is installed.
INSTALLED_BY = {
    "llama.cpp": ("xllamacpp", "pip install xllamacpp"),
    "mlx-lm": ("mlx_lm", "pip install mlx-lm 'mlx[cpu]'"),
    "ctranslate2": ("ctranslate2", "pip install ctranslate2"),
}

# Those that are asked at their address.
SERVERS = ("vllm", "sglang", "llama-server")

# Those that load a .gguf file; the others load a folder.
OF_FILES = ("llama.cpp",)


def installed_engines(names: Sequence[str]) -> list[str]:
    """Those of some engines that are installed; a warning says how to install each other one.

    Args:
        names: of "llama.cpp", "mlx-lm" and "ctranslate2".

    Raises:
        ValueError: an unknown engine.
    """
    found = []
    for name in names:
        if missing := _missing(name):
            warnings.warn(f"{missing}; it is left out", stacklevel=2)
        else:
            found.append(name)
    return found


def _missing(name: str) -> str:
    """How to install an engine that is not there; "" where it is."""
    if name.lower() in SERVERS:
        raise ValueError(
            f"{name} runs as a server: start it, and pass its address, such as "
            "http://localhost:8000"
        )
    if name not in LOADERS:
        raise unknown("engine", name, [*LOADERS, "or an address, such as http://localhost:8000"])
    package, install = INSTALLED_BY[name]
    if importlib.util.find_spec(package) is not None:
        return ""
    return f"the engine {name} is not installed: {install}"


def find_engine(
    engine: Engine | str, path: str | os.PathLike[str] | None = None
) -> tuple[Engine, str]:
    """Whom to ask, and what it is called.

    Args:
        engine: the address of a running server; an engine of this process, with its path
            ("llama.cpp:FILE.gguf") or without; or a function, which is returned as it is.
        path: what an engine of this process loads, where its name says none.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `load_engine` and `find_server`; or an
            engine of this process without any path.
    """
    if not isinstance(engine, str):
        return engine, getattr(engine, "__name__", type(engine).__name__)
    if "://" in engine:
        server = find_server(engine)
        return server, f"The {server.kind} at {server.url}"
    name, _, own = engine.partition(":")
    if not own and path is None:
        raise ValueError(
            f"the engine {name!r} loads a file or folder, and none is named: pass '{name}:PATH'"
        )
    called = f"{name}, given {Path(own).name}," if own else name
    return load_engine(name, own or os.fspath(path or "")), called


def load_engine(name: str, path: str | os.PathLike[str]) -> Engine:
    """An engine with a model in it.

    Args:
        name: "llama.cpp", "mlx-lm" or "ctranslate2".
        path: a .gguf file for llama.cpp, a folder for the others.

    Raises:
        ValueError: an unknown engine, one that is not installed (the error says how), a path of
            the wrong kind, or what the engine itself refuses.
        FileNotFoundError: there is nothing at the path.
    """
    if missing := _missing(name):
        raise ValueError(missing)
    path = at_home(path)
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path} for {name} to load: check the path")
    if path.is_file() != (name in OF_FILES):
        wanted = "a .gguf file" if name in OF_FILES else "a folder with config.json"
        raise ValueError(f"{name} loads {wanted}, and {path} is none")
    try:
        return LOADERS[name](path)
    except Exception as error:  # each engine has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} cannot load {path}: {reason}") from error


def _llama_cpp(path: Path) -> Engine:
    """llama.cpp's own server, in this process, with one sequence as long as the file says."""
    import torch
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 0, 1, False
    parameters.cpuparams.n_threads = torch.get_num_threads()  # more would wait for one another
    parameters.port = 0  # one that is free
    parameters.verbosity = -1  # else it tells of each request
    running = xllamacpp.Server(parameters)
    return replace(find_server(running.listening_address), running=running)


def _mlx_lm(path: Path) -> Engine:
    import mlx.core as mx
    import mlx_lm

    model = mlx_lm.load(str(path))[0]

    def log_probs(ids: list[int]) -> NDArray[np.float32]:
        logits = model(mx.array([ids]))[0].astype(mx.float32)
        return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

    return _of_all(log_probs)


def _ctranslate2(path: Path) -> Engine:
    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder, "model"))
        ctranslate2.converters.TransformersConverter(str(path)).convert(made)
        generator = ctranslate2.Generator(made)

    def log_probs(ids: list[int]) -> Any:
        return np.array(generator.forward_batch([ids], return_log_probs=True))[0]

    return _of_all(log_probs)


def _of_all(log_probs: Callable[[list[int]], NDArray[np.float32]]) -> Engine:
    """An engine that gives log-probabilities (T, V) of all tokens at once."""

    def ask(ids: Sequence[int], positions: Sequence[int]) -> Answers:
        rows = log_probs([int(i) for i in ids])
        answers: Answers = []
        for n in positions:
            told = {int(i) for i in np.argsort(rows[n])[-MOST_LIKELY:]} | {*ids[n + 1 : n + 2]}
            answers.append({int(i): float(rows[n, int(i)]) for i in told})
        return answers

    return ask


LOADERS: dict[str, Callable[[Path], Engine]] = {
    "llama.cpp": _llama_cpp,
    "mlx-lm": _mlx_lm,
    "ctranslate2": _ctranslate2,
}
