"""Prints docs/cheatsheet.md: the formulas on one page, their figures taken from the library.

python examples/cheatsheet.py > docs/cheatsheet.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

import longrope_lab as lab
from longrope_lab.measure.stats import wilson_interval
from longrope_lab.rope import bounds, formulas
from longrope_lab.searches import space
from longrope_lab.searches.objective import GRADIENT_FORWARDS

# Rotary dimension, window and base of models that the notebooks and the papers speak of.
MODELS = {
    "the lab model": lab.RopeSpec(64, 512, base=10_000.0),
    "SmolLM2-135M": lab.RopeSpec(64, 8192, base=100_000.0),
    "LLaMA2-7B": lab.RopeSpec(128, 4096, base=10_000.0),
    "Mistral-7B v0.1": lab.RopeSpec(128, 8192, base=10_000.0),
}
LAB = MODELS["the lab model"]
TARGET = 4096
PAIRS = (0, 5, 10, 15, 20, 31)

LETTERS = [
    ("$d$", "rotary dimension; its pairs are $i = 0, \\dots, d/2 - 1$", "`spec.rotary_dim`"),
    ("$L$", "trained window in tokens", "`spec.window`"),
    ("$L'$", "target in tokens", "`scaling.target_length`"),
    ("$s = L'/L$", "extension ratio", "`scaling.ratio`"),
    ("$\\theta_i$", "frequency of a pair, in radians per token", "`spec.frequencies`"),
    ("$\\lambda_i \\ge 1$", "rescale factor of a pair", "`scaling.factors`"),
    ("$\\hat n$", "start tokens, whose angles stay as they were", "`scaling.start_tokens`"),
    ("$m$", "attention factor: cos and sin are multiplied by it", "`scaling.attention_factor`"),
]

YARN = (
    "1 where $r_i > 32$, $s$ where $r_i < 1$; between them $\\theta_i/\\lambda_i$ goes from "
    "$\\theta_i$ to $\\theta_i/s$"
)
RAMP = "1 where $r_i > 32$, $s$ where $r_i < 1$; between them $\\lambda_i$ goes from 1 to $s$"
GEOMETRIC = (
    "1 where $r_i > 32$, $s$ where $r_i < 1$; between them $\\ln \\lambda_i$ goes from 0 to "
    "$\\ln s$"
)
LLAMA3 = (
    "1 where $r_i > 4$, $s$ where $r_i < 1$; between them $\\theta_i/\\lambda_i$ mixed by $r_i$"
)
LONGROPE_M = "$\\sqrt{1 + \\ln s / \\ln L}$"
METHODS = [
    ("`none`", "1", 0, 1),
    ("`pi`", "$s$", 0, 1),
    ("`ntk`", "$s^{2i/(d-2)}$", 0, 1),
    ("`dynamic_ntk`", "as `ntk`, with $s = \\ell/L$ from the running length $\\ell$", 0, 1),
    ("`yarn`", YARN, 0, "$0.1 \\ln s + 1$"),
    ("`ramp`", RAMP, 0, LONGROPE_M),
    ("`geometric`", GEOMETRIC, 0, LONGROPE_M),
    ("`llama3`", LLAMA3, 0, 1),
    (
        "`longrope`",
        "searched, $\\lambda_i \\le \\lambda_{i+1}$",
        "searched",
        LONGROPE_M,
    ),
]

PAGE = r"""# Cheat sheet

[`examples/cheatsheet.py`](../examples/cheatsheet.py) prints this page; its figures come from the
library.

## Letters

<<LETTERS>>

## One formula for all

$$\text{angle}_i(n) = \begin{cases}
n\,\theta_i & n < \hat n \\ n\,\theta_i / \lambda_i & n \ge \hat n
\end{cases} \qquad \theta_i = \text{base}^{-2i/d}$$

A query and a key meet at the angle of their distance, and their score is multiplied by $m^2$. A
pair turns once in $2\pi/\theta_i$ tokens (`spec.wavelengths`), and $r_i = L\,\theta_i/2\pi$ times
inside the window (`spec.rotations`). Where $r_i < 1$ it never finishes a turn there, so a longer
text takes it to angles that training never showed.

<<MODELS>>

## The methods

<<METHODS>>

`lab.rope_scaling(spec, method, target_length)` computes them. For the lab model, from <<FROM>> to
<<TO>> tokens ($s = <<RATIO>>$), this gives:

<<FACTORS>>

LongRoPE's $m$ would be <<LONGROPE_M>> here.

## Twice in a row

A model that was extended by $\lambda$ and $m$, and then by $\lambda'$ and $m'$, has the factors
$\lambda_i \lambda'_i$ and the attention factor $m\,m'$: `lab.compose(first, second)`.

## What a search chooses from

Factors lie between 1 and <<HIGHEST>> $s$, in steps of <<STEP>>, and do not fall from one pair to
the next. The start tokens $\hat n$ are one of
<<START_TOKENS>>.
The evolution has these sizes:

<<PRESETS>>

A gradient counts as <<GRADIENT>> forward passes.

## What is measured

- The loss is the mean of $-\ln p$ over tokens, in nats per token; perplexity is its exponential.
- Two scalings are compared by the ratio of their perplexities on the same documents, with a 95 %
  interval that resamples documents: `lab.paired_comparison`.
- Shares of passkeys have Wilson's interval, which is wide for ten trials:

<<SHARES>>

## Position Interpolation's bound

Let $a(s) = \operatorname{Re} \sum_j h_j e^{i s \theta_j}$ be a score at distance $s$. Halfway
between two whole distances it leaves the straight line between them by at most
$\max_j |h_j| \sum_j \theta_j^2 / 8$, which is <<BOUND>> $\max_j |h_j|$ for the lab model. Beyond
the window nothing comparable is known: $\max_j |h_j|\, d/2$ is reached by some $h$ at any $s$.
"""


def main() -> None:
    """Print the page."""
    page = PAGE
    for name, text in figures().items():
        page = page.replace(f"<<{name}>>", text)
    print(page, end="")


def figures() -> dict[str, str]:
    """What stands on the page between << and >>."""
    midway = float(bounds.interpolation_bound(LAB, 1.0, *bounds.MIDWAY))
    return {
        "LETTERS": table(["letter", "meaning", "in the library"], LETTERS),
        "METHODS": table(["method", "$\\lambda_i$", "$\\hat n$", "$m$"], METHODS),
        "MODELS": models(),
        "FACTORS": factors(),
        "PRESETS": presets(),
        "SHARES": shares(),
        "FROM": f"{LAB.window:,}",
        "TO": f"{TARGET:,}",
        "RATIO": f"{TARGET / LAB.window:g}",
        "LONGROPE_M": f"{formulas.longrope_attention_factor(LAB, TARGET):.3f}",
        "HIGHEST": f"{space.HIGHEST:g}",
        "STEP": f"{space.STEP:g}",
        "START_TOKENS": ", ".join(map(str, space.START_TOKENS)),
        "GRADIENT": str(GRADIENT_FORWARDS),
        "BOUND": f"{midway:.2f}",
    }


def models() -> str:
    """Which pairs of some models never finish a turn inside the window."""
    rows = []
    for name, spec in MODELS.items():
        unfinished = np.flatnonzero(spec.rotations < 1)
        which = f"{unfinished[0]} to {unfinished[-1]}"
        slowest = f"{spec.wavelengths[-1]:,.0f}"
        window = f"{spec.window:,}"
        rows.append((name, spec.rotary_dim, f"{spec.base:,.0f}", window, slowest, which))
    unseen = "pairs that never finish a turn"
    return table(["model", "$d$", "base", "$L$", "longest wavelength", unseen], rows)


def factors() -> str:
    """Factors of some pairs, and the attention factor, under each formula."""
    rows = []
    for method in (*lab.FORMULAS, "ramp", "geometric", "llama3"):
        scaling = lab.rope_scaling(LAB, method, TARGET).at(TARGET)
        values = [f"{scaling.factors[i]:.2f}" for i in PAIRS]
        rows.append((f"`{method}`", *values, f"{scaling.attention_factor:.3f}"))
    turns = (f"$\\lambda_{{{i}}}$ ({LAB.rotations[i]:.3g} turns)" for i in PAIRS)
    return table(["method", *turns, "$m$"], rows)


def presets() -> str:
    """The evolution's sizes by name."""
    columns = ["preset", "population", "mutations", "crossovers", "survivors", "rounds"]
    rows = [
        (f"`{name}`", p.population, p.mutations, p.crossovers, p.top, p.rounds)
        for name, p in lab.PRESETS.items()
    ]
    return table(columns, rows)


def shares() -> str:
    """Wilson's interval for some numbers of right answers out of ten."""
    rows = []
    for right in (0, 5, 9, 10):
        low, high = wilson_interval(right, 10)
        rows.append((f"{right} of 10", f"{100 * low:.0f} to {100 * high:.0f} %"))
    return table(["found", "95 % interval"], rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main()
