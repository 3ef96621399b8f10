"""Refuses lists that memory cannot hold, before they are made."""

from __future__ import annotations

import psutil

# What a list takes for each of its items, whatever they are.
POINTER = 8


def check_listed(items: int, what: str) -> None:
    """Refuse so many items, if a list of them alone takes more memory than the machine has.

    Args:
        items: how many.
        what: they are, in words, and several: "the prompts of 3 trials".

    Raises:
        ValueError: it takes more.
    """
    needed, held = POINTER * items, psutil.virtual_memory().total
    if needed > held:
        raise ValueError(
            f"{what} take at least {needed / 2**30:,.0f} GiB, and this machine has "
            f"{held / 2**30:,.0f}: ask for fewer, or for shorter ones"
        )
