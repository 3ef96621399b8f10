"""What the tests of commands share: a small model in a folder, and the command on it."""

from __future__ import annotations

from conftest import tiny_model


def save_small(folder, tokenizer, seed=0):
    """A random model with a window of 64 tokens, as a folder with a tokenizer."""
    tiny_model(vocab_size=len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
