"""Times and large numbers in units that fit, as people say them."""

from __future__ import annotations

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
