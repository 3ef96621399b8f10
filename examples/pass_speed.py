"""How quick is one pass over a text here, and how much of it is attention?

python examples/pass_speed.py smollm2
python examples/pass_speed.py FOLDER --lengths 8192 65536 --memory 2097152 --layers 2

Each line printed is a JSON object. At each length these are timed: attention's kernels alone (as
many calls as the model has layers), the model's own forward with all logits and their loss, and
`token_losses`, as it is and through compiled layers. Token ids are random, since time does not
depend on them. `--memory` measures the peak above the weights of texts that may be too long to
wait for: with so many `--layers` of the model, which it does not depend on.

`--gpus 1 2 4 --split 1048576` reads one text by so many GPUs together, and prints its seconds.
First it compares the loss of `--compare` tokens, and a step of a gradient search, with those of one
GPU.

A part that fails prints its error, and the next one begins.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import longrope_lab as lab
from longrope_lab.models.config_fields import head_dim, stated_values
from longrope_lab.models.estimates import projected_widths
from longrope_lab.models.forward import fast_attention

GIB = 2**30


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    options = _options(arguments)
    model, _ = lab.load_model(options.model)
    on_gpu = model.device.type == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    say("machine", device=name, torch=torch.__version__, dtype=str(model.dtype))
    for length in options.lengths:
        with going_on("speed", length=length):
            say("speed", length=length, **speed(model, length, options))
    if options.memory:
        with shortened(model, options.layers):
            for length in options.memory:
                with going_on("memory", length=length):
                    say("memory", length=length, layers=options.layers, **memory(model, length))

    for count in options.gpus:
        with going_on("split", gpus=count):
            split(model, count, options)


def split(model: nn.Module, count: int, options: argparse.Namespace) -> None:
    """One text by several GPUs together: against one GPU, then how quick."""
    lengths = options.compare, *options.split
    texts = [lab.Document("random", random_ids(model, n).cpu().numpy()) for n in lengths]
    with lab.SequenceParallel(count, split_from=2) as gpus:

        def reads(text: lab.Document) -> float:
            return lab.perplexity(options.model, [text], [len(text)], executor=gpus)["loss"].item()

        def searches(executor: Executor | None) -> list[float]:
            settings = lab.Gradient(steps=2, validate_every=1)
            given = options.model, texts[:1], lengths[0], settings
            return lab.search(*given, executor=executor).history["loss"].tolist()

        with going_on("equality", gpus=count):
            alone = float(lab.token_losses(model, texts[0].ids).double().mean())
            steps = zip(searches(gpus), searches(None), strict=True)
            say("equality", gpus=count, loss=alone, loss_differs_by=abs(reads(texts[0]) - alone),
                steps_differ_by=max(abs(ours - theirs) for ours, theirs in steps))  # fmt: skip
        loading = seconds(functools.partial(reads, texts[0]), 1, warm=1)
        for text in texts[1:]:
            with going_on("split", gpus=count, length=len(text)):
                took = seconds(functools.partial(reads, text), 1, warm=0)
                say("split", gpus=count, length=len(text), seconds=took - loading)


def speed(model: nn.Module, length: int, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of attention alone, of `token_losses`, and of the model's own way."""
    ids, repeats = random_ids(model, length), options.repeats
    found = {"attention": seconds(attention_alone(model, length), repeats)}
    found["losses"] = seconds(lambda: lab.token_losses(model, ids), repeats)
    expected = lab.token_losses(model, ids)
    found["over_attention"] = found["losses"] / found["attention"]
    if length <= options.plain_up_to:
        with going_on("plain", length=length):
            found["plain"] = seconds(lambda: plain(model, ids), repeats)
            found["over_plain"] = found["losses"] / found["plain"]
            found["plain_differs_by"] = differs(plain(model, ids), expected)
    with going_on("compiled", length=length), lab.compiled(model, backend=options.backend):
        started = time.perf_counter()
        quick = lab.token_losses(model, ids)
        found["differs_by"] = differs(quick, expected)
        found["first_compiled"] = time.perf_counter() - started
        found["compiled"] = seconds(lambda: lab.token_losses(model, ids), repeats)
        found["compiled_over_attention"] = found["compiled"] / found["attention"]
    return found


def memory(model: nn.Module, length: int) -> dict[str, float]:
    """The peak above the weights of one pass, in GiB, and its seconds."""
    if model.device.type != "cuda":
        raise ValueError("only a GPU knows its peak: leave out --memory")
    ids = random_ids(model, length)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    took = seconds(lambda: lab.token_losses(model, ids), 1, warm=0)
    return {"peak_gib": (torch.cuda.max_memory_allocated() - before) / GIB, "seconds": took}


def attention_alone(model: nn.Module, length: int) -> Callable[[], None]:
    """As many calls of attention as the model makes on a text so long."""
    config = model.config.get_text_config()
    width = int(head_dim(stated_values(config)))
    query, key, value = (
        torch.randn(1, length, each // width, width, dtype=model.dtype, device=model.device)
        for each in (projected_widths(config)[0], *[projected_widths(config)[1]] * 2)
    )

    def attend() -> None:
        with torch.inference_mode(), fast_attention():
            for _ in range(config.num_hidden_layers):
                F.scaled_dot_product_attention(
                    *(each.transpose(1, 2) for each in (query, key, value)),
                    is_causal=True,
                    enable_gqa=True,
                )

    return attend


def plain(model: nn.Module, ids: Tensor) -> Tensor:
    """The model's own forward, all logits, and their losses."""
    with torch.inference_mode(), fast_attention():
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
        return F.cross_entropy(logits, ids[1:], reduction="none")


def seconds(function: Callable[[], object], repeats: int, *, warm: int = 2) -> float:
    """The median of so many calls, after some that warm up."""
    times = []
    for _ in range(warm + repeats):
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[warm:])


def differs(one: Tensor, other: Tensor) -> float:
    """The root of the mean square difference of two lists of losses."""
    return float((one.double() - other.double()).square().mean().sqrt())


def random_ids(model: nn.Module, length: int) -> Tensor:
    """Token ids (length,), the same in each run."""
    chance = torch.Generator().manual_seed(0)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    return torch.randint(vocabulary, (length,), generator=chance).to(model.device)


@contextlib.contextmanager
def shortened(model: nn.Module, layers: int) -> Iterator[None]:
    """The model with its first layers alone."""
    config = model.config.get_text_config()
    before = config.num_hidden_layers
    config.num_hidden_layers = min(layers, before)
    try:
        yield
    finally:
        config.num_hidden_layers = before


@contextlib.contextmanager
def going_on(part: str, **about: object) -> Iterator[None]:
    """Print an error, and go on."""
    try:
        yield
    except Exception as error:
        say(
            "error", at=part, **about, error=repr(error)[:500], trace=traceback.format_exc()[-1500:]
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def say(part: str, **values: object) -> None:
    """Print one line."""
    print(json.dumps({"part": part, **values}), flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a name or folder for load_model")
    parser.add_argument("--lengths", nargs="*", type=int, default=[8192, 16384, 65536, 131072])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plain-up-to", type=int, default=16384)
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--memory", nargs="*", type=int, default=[], help="lengths")
    parser.add_argument("--layers", type=int, default=2, help="of the model, for --memory")
    parser.add_argument("--gpus", nargs="*", type=int, default=[], help="to share a text")
    parser.add_argument("--split", nargs="*", type=int, default=[1_048_576], help="lengths")
    parser.add_argument("--compare", type=int, default=65_536, help="tokens to compare on")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
