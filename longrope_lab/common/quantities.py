"""Times, lengths and large numbers in units that fit, as people say them."""

from __future__ import annotations

import re

# What a number is divided by, and how it is then called; the largest that leaves 1 or more is used.
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def duration(seconds: float) -> str:
    """A time in words, to about two digits.

    >>> duration(0.25), duration(42.4), duration(200), duration(5000), duration(200_000)
    ('0.2 s', '42 s', '3 min', '1 h 23 min', '2.3 days')
    """
    if seconds < 9.95:
        return f"{round(max(seconds, 0), 1):g} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        hours, rest = divmod(minutes, 60)
        return f"{hours} h" + (f" {rest} min" if rest else "")
    return f"{seconds / 86_400:.2g} days"


def amount(number: float, unit: str = "") -> str:
    """A number to three digits with its unit's prefix; 0 stays 0.

    >>> amount(1_234_567), amount(3.2e13, "FLOP"), amount(512), amount(0, "FLOP")
    ('1.23 M', '32 TFLOP', '512', '0 FLOP')
    """
    size, prefix = next(((s, p) for s, p in PREFIXES if number >= 0.9995 * s), (1.0, ""))
    value = number / size
    digits = f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"
    return f"{digits} {prefix}{unit}".rstrip()


def length_in(text: str) -> int:
    """The tokens in a length as people write it; k and M are the binary ones.

    >>> length_in("4096"), length_in("4,096"), length_in("4k"), length_in("2M")
    (4096, 4096, 4096, 2097152)

    Raises:
        ValueError: it is no length.
    """
    found = re.fullmatch(r"(\d{1,3}(?:,\d{3})+|\d+) ?([kKmM]?)", text.strip())
    if found is None:
        raise ValueError(
            f"the length {text!r} is no whole number of tokens: write it as 4096, 4,096 or 4k"
        )
    return int(found[1].replace(",", "")) * {"": 1, "k": 2**10, "m": 2**20}[found[2].lower()]
