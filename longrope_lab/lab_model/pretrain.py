"""Makes the lab model, a BPE tokenizer and a small Llama with a window of 512 tokens, from books.

::

    pretrain="python -m longrope_lab.lab_model.pretrain"
    $pretrain tokenizer --books train-*.parquet --out lab_model
    $pretrain model --books train-*.parquet --out lab_model --tokens 1.5e9
    $pretrain model --books some.parquet --out lab_model --start lab_model --tokens 3e6 --rows 32 \\
        --lr 8e-4 --passkey-share 0.5 --whole-window 0.8 --passkey-rows 2500 --seed 1

The first takes a minute and the last 20 minutes on a CPU; the second wants a GPU. Most rows are
plain text. A share is passkey prompts no longer than the window, so that retrieval inside it is all
but perfect, and its loss beyond it is the position embedding's doing alone. The last command
sharpens the farthest retrievals, which are rare in the second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..common.files import write_json
from ..measure.needle_prompts import passkey_sequence
from ..texts.corpora import iterate_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 512
VOCABULARY = 4096
END = "<|endoftext|>"


def train_tokenizer(books: list[str], folder: Path, characters: float = 60e6) -> None:
    """Byte-level BPE with single digits, from a sample of so many characters of the books."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = [text for source in books for _, text in iterate_texts(source)]
    # The same share of every book, from its middle.
    share = characters / sum(map(len, texts))
    samples = (t[int(len(t) * (1 - share) / 2) :][: int(len(t) * share) + 1] for t in texts)
    tokenizer.train_from_iterator(samples, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=WINDOW,
    )
    fast.save_pretrained(folder)


def token_stream(books: list[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """All books as one row of token ids (T,), int16, an END between two."""
    parts: list[NDArray[np.int16]] = []
    end = np.array([tokenizer.eos_token_id], dtype=np.int16)
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    for source in books:
        texts = [text for _, text in iterate_texts(source)]
        for encoding in encode(texts, add_special_tokens=False):
            parts += [np.asarray(encoding.ids, dtype=np.int16), end]
        print(f"{source}: {sum(map(len, parts)):,} tokens so far", flush=True)
    return torch.from_numpy(np.concatenate(parts))


def passkey_rows(
    tokenizer: PreTrainedTokenizerBase,
    stream: Tensor,
    count: int,
    rng: np.random.Generator,
    whole_window: float = 0.0,
) -> Tensor:
    """Rows of passkey sequences with their answers, an END between two; half with either filler.

    The lengths of the sequences are uniform, but for a share `whole_window` of the rows. Such a row
    is one sequence that fills the window, its key oftener near an end than in the middle.

    Returns:
        Token ids, shape (count, WINDOW + 1), int16.
    """
    books = stream.numpy()
    rows = np.empty((count, WINDOW + 1), dtype=np.int16)
    for row in rows:
        filled = 0
        fill = rng.random() < whole_window
        while filled < len(row):
            length = WINDOW if fill else int(rng.integers(96, WINDOW + 1))
            depth = float(rng.beta(0.5, 0.5) if fill else rng.random())
            start = int(rng.integers(0, len(books) - WINDOW))
            filler = books[start : start + WINDOW] if rng.random() < 0.5 else None
            ids, key = passkey_sequence(tokenizer, length, depth, rng, filler)
            answer = tokenizer(f" {key}.", add_special_tokens=False)["input_ids"]
            piece = [*ids, *answer, tokenizer.eos_token_id][: len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled += len(piece)
    return torch.from_numpy(rows)


def batches(
    stream: Tensor, passkeys: Tensor, size: int, share: float, seed: int
) -> Iterator[Tensor]:
    """Endless (size, WINDOW + 1) int64 batches, of which a share is passkey rows.

    The rest is the stream cut into rows, which are shuffled; each pass cuts it elsewhere.
    """
    device = stream.device
    generator = torch.Generator(device).manual_seed(seed)
    of_passkeys = round(size * share)
    span = torch.arange(WINDOW + 1, device=device)
    while True:
        offset = int(torch.randint(WINDOW, (1,), generator=generator, device=device))
        starts = torch.arange(offset, len(stream) - WINDOW - 1, WINDOW, device=device)
        starts = starts[torch.randperm(len(starts), generator=generator, device=device)]
        for chosen in torch.split(starts, size - of_passkeys):
            keys = torch.randint(len(passkeys), (of_passkeys,), generator=generator, device=device)
            yield torch.cat([stream[chosen[:, None] + span], passkeys[keys]]).long()


def new_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A fresh Llama of 6.9 M parameters.

    It has 6 layers of width 256, 4 heads of 64 and 2 key-value heads, and tied embeddings.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms.

    On 80 M tokens Muon reached a loss of 3.13 where AdamW alone reached 3.35.
    """
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    groups = [
        {"params": [p for n, p in named if p.ndim == 2 and "embed" in n], "weight_decay": 0.1},
        {"params": [p for n, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [
        torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True),
        # Its updates are scaled to the size of AdamW's, so that one learning rate serves both.
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]


def train(
    model: PreTrainedModel,
    data: Iterator[Tensor],
    steps: int,
    lr: float,
    warmup: int = 200,
    log_every: int = 250,
) -> list[dict[str, float]]:
    """Next-token training, on a GPU in bfloat16; linear warm-up, then linear decay to zero.

    Returns:
        One entry per `log_every` steps: step, tokens (all so far), loss (mean since the last).
    """
    device = next(model.parameters()).device
    loss_of = partial(next_token_loss, model)
    compiled = torch.compile(loss_of) if device.type == "cuda" else loss_of
    all_optimizers, schedulers = schedule(model, steps, lr, min(warmup, steps // 10 + 1))
    history: list[dict[str, float]] = []
    started = time.perf_counter()
    running = torch.zeros((), device=device)
    for step in range(1, steps + 1):
        rows = next(data)
        loss = compiled(rows)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(all_optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        running += loss.detach()
        if step % log_every == 0 or step == steps:
            mean = running.item() / (step % log_every or log_every)
            running.zero_()
            tokens = step * rows.shape[0] * WINDOW
            history.append({"step": step, "tokens": tokens, "loss": mean})
            rate = tokens / (time.perf_counter() - started) / 1e6
            print(f"step {step}/{steps} loss {mean:.4f} {rate:.2f} M tokens/s", flush=True)
    return history


def next_token_loss(model: PreTrainedModel, rows: Tensor) -> Tensor:
    """The mean loss of rows (B, T), in nats per token."""
    device = rows.device.type
    # A processor without bfloat16 of its own takes six times as long with it.
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def schedule(
    model: nn.Module, steps: int, lr: float, warmup: int
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LambdaLR]]:
    """`optimizers`, and what moves their learning rates: a linear rise, then a linear fall to 0."""

    def share(step: int) -> float:
        return min((step + 1) / warmup, (steps - step) / (steps - warmup))

    all_optimizers = optimizers(model, lr)
    return all_optimizers, [torch.optim.lr_scheduler.LambdaLR(o, share) for o in all_optimizers]


def make_model(arguments: argparse.Namespace) -> None:
    """Train the model that the command line asks for, and write it with its loss log."""
    from transformers import AutoTokenizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    tokenizer = AutoTokenizer.from_pretrained(arguments.out)
    stream = token_stream(arguments.books, tokenizer)
    rng = np.random.default_rng(arguments.seed)
    passkeys = passkey_rows(tokenizer, stream, arguments.passkey_rows, rng, arguments.whole_window)
    model = new_model(tokenizer)
    if arguments.start:
        model = type(model).from_pretrained(arguments.start, dtype=torch.float32)
    model.to(device).train()
    count = sum(p.numel() for p in model.parameters())
    print(f"{count:,} parameters, {len(stream):,} tokens of text", flush=True)
    size, share = arguments.rows, arguments.passkey_share
    data = batches(stream.to(device), passkeys.to(device), size, share, arguments.seed)
    history = train(model, data, int(arguments.tokens / (size * WINDOW)), arguments.lr)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    write_json(arguments.out / "training.json", {"arguments": settings, "history": history})


def command_line() -> argparse.ArgumentParser:
    """What the command takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=["tokenizer", "model"])
    add("--books", nargs="+", required=True, help="text files as load_corpus takes them")
    add("--out", type=Path, required=True, help="folder for the tokenizer and the model")
    add("--start", type=Path, help="go on from the model in this folder instead of a fresh one")
    add("--tokens", type=float, default=1.5e9)
    add("--rows", type=int, default=256, help="rows of 512 tokens per step")
    add("--lr", type=float, default=6e-3)
    add("--passkey-share", type=float, default=0.05)
    add("--passkey-rows", type=int, default=40_000)
    whole = "share of passkey rows that fill the window"
    add("--whole-window", type=float, default=0.0, help=whole)
    add("--seed", type=int, default=0)
    return parser


def main() -> None:
    arguments = command_line().parse_args()
    if arguments.what == "tokenizer":
        train_tokenizer(arguments.books, arguments.out)
    else:
        make_model(arguments)


if __name__ == "__main__":
    main()
