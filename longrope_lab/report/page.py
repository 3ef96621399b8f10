"""Writes ``results/README.md``.

For each experiment it holds the paper's figures, ours, and whether the finding showed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from ..common.files import replacing
from ..common.markup import as_markdown

# Imported, they register their claims.
from . import claims_extended_models, claims_searched_factors  # noqa: F401
from .claims import CLAIMS, NOT_MEASURED, Outcome, Places, at, judge
from .comparisons import ENOUGH
from .exhibits import EXHIBITS, Picture, Table, windows_read
from .experiments import EXPERIMENTS, Experiment
from .markdown import grid, number, papers_figures, rows_of, with_interval
from .recorded import MEASURING, NotMeasuredError, Results, Run, read_results

TITLE = "# What the paper found, and what came out here\n"

HEAD = f"""`longrope-lab report` writes this page from the tables beside it; no number is typed.
The paper is [LongRoPE](https://arxiv.org/abs/2402.13753), which extends LLaMA2-7B and Mistral-7B.
Our models, texts and lengths differ, and so do the numbers. What can be compared are findings:
which method wins, by what ratio, and how far it reaches. Each profile is a scale at which the
notebooks ran ({", ".join(MEASURING)}), and has a verdict of its own. A ratio beside it says how
many trained windows long the longest text was, in the paper and in each profile.

**How to read it.** A finding consists of one or more claims. Each claim is tested at several
places, such as a corpus and a length. The verdict is

- **yes** if every claim holds at every place,
- **partly** if some claim holds somewhere,
- **no** if everything was measured and nothing holds,
- **not measured** otherwise.

One method is "below" another only if the whole 95 % interval of their ratio says so; the same goes
for "more than". Intervals resample documents, and methods are compared on the same ones. An
interval over fewer than {ENOUGH} documents counts as not measured. "No" means that a finding did
not show, not that its opposite did.
"""

VERSIONS = ("torch", "transformers")

BOOKS = """Texts whose names begin with `books/` are listed in `docs/books.csv`, and `docs/books.md`
says which rows each name means. `longrope-lab books check FOLDER` tells which of them you have.
"""

# What `judge` says of an experiment, by profile: the verdict, and the outcome of each claim.
Judged = Mapping[str, tuple[str, list[Outcome]]]


def write_report(results: str | os.PathLike[str] = "results") -> Path:
    """Write the page of results into their folder, whole or not at all.

    The same results give the same bytes.

    Raises:
        FileNotFoundError: no run there, or one without its ``run.json``.
        ValueError: a damaged table or ``run.json``; the file is named.
    """
    text = render(read_results(results))
    path = Path(results) / "README.md"
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return path


def render(profiles: Mapping[str, Results]) -> str:
    """The page, in Markdown, from the runs of each profile (`read_results`).

    Its links start in the folder of the results.
    """
    judged = {
        name: {p: judge(name, results) for p, results in profiles.items()} for name in EXPERIMENTS
    }
    headline = [
        [
            f"[{each.source.partition(', ')[2]}](#{name.lower()})", each.finding,
            f"{each.windows}x", *(_short(each, judged[name][p][0], profiles[p]) for p in profiles),
        ]
        for name, each in EXPERIMENTS.items()
    ]  # fmt: skip
    columns = ["exhibit", "the paper finds", "the paper's ratio", *profiles]
    parts = [TITLE, rows_of(columns, headline), HEAD]
    for each in EXPERIMENTS.values():
        parts += _section(each, profiles, judged[each.id])
    return "\n".join([*parts, *_origins(profiles)])


def _short(each: Experiment, verdict: str, results: Results) -> str:
    """A verdict, and the ratio at which it was reached: "yes, 8x"."""
    ratio = None if verdict == NOT_MEASURED else windows_read(each, results)
    return f"{verdict}, {ratio:g}x" if ratio else verdict


def _link(text: str, run: Run) -> str:
    executed = f"{run.notebook}.ipynb"
    return (
        f"[{text}]({run.profile}/{run.notebook}/{executed})"
        if (run.folder / executed).is_file()
        else text
    )


def _section(each: Experiment, profiles: Mapping[str, Results], judged: Judged) -> list[str]:
    title = each.title[0].upper() + each.title[1:]
    parts = [
        f"## {each.id}\n",
        f"**{title}** ({each.source}).\n",
        f"The paper: {each.finding}.",
        papers_figures(each, lambda name: f"[{name}](#{name.lower()})"),
    ]
    parts.append(_verdicts(each.id, judged))
    for results in profiles.values():
        parts += _measured(each.id, results)
    return parts


def _verdicts(name: str, judged: Judged) -> str:
    rows = [["**did it show?**", *(f"**{verdict}**" for verdict, _ in judged.values())]]
    for i, each in enumerate(CLAIMS[name]):
        rows.append([each.says, *(_where(outcomes[i].places) for _, outcomes in judged.values())])
    return rows_of(["what has to hold", *judged], rows)


def _where(places: Places) -> str:
    """In words, where a claim holds and where not."""
    said = {True: "yes", False: "no", None: "not measured"}
    groups = {
        word: [place for place, decided in places.items() if decided.holds is key]
        for key, word in said.items()
    }
    there = [
        f"{word}: {', '.join(map(as_markdown, these))}" for word, these in groups.items() if these
    ]
    return "<br>".join(there) or said[None]


def _measured(name: str, results: Results) -> list[str]:
    """What a profile's runs recorded for an experiment: tables, and figures."""
    parts: list[str] = []
    notebook = ""
    for shown in EXHIBITS[name]:
        if shown.notebook not in results.runs:
            continue
        run = results.runs[shown.notebook]
        if shown.notebook != notebook:
            notebook = shown.notebook
            model = f", model {as_markdown(run.model)}" if run.model else ""
            parts.append(f"### {name}, {results.profile}: {_link(notebook, run)}{model}\n")
        parts.append(
            _picture(shown, run) if isinstance(shown, Picture) else _table(shown, run, results)
        )
    return parts


def _picture(shown: Picture, run: Run) -> str:
    path = run.folder / f"{shown.name}.png"
    if not path.is_file():
        return f"({shown.caption}: this run has no {path.name}.)\n"
    return f"![{shown.caption}]({run.profile}/{run.notebook}/{path.name})\n"


def _table(shown: Table, run: Run, results: Results) -> str:
    try:
        return _numbers(shown, run, shown.read(results))
    except NotMeasuredError:
        return f"({shown.caption}: this run has no {shown.name}.csv, or an empty one.)\n"
    except KeyError as error:
        raise ValueError(
            f"{run.folder / shown.name}.csv has no column {error}: run the notebook again"
        ) from None


def _numbers(shown: Table, run: Run, table: pd.DataFrame) -> str:
    caption = f"{shown.caption}{_texts(shown, run)}{_over(table)}:\n"
    columns = shown.columns
    if columns:
        cells = [with_interval(row, shown.value) for row in table.to_dict("records")]
    else:  # several values side by side
        table = table.melt(list(shown.rows), list(shown.side_by_side), var_name="measure")
        columns = ("measure",)
        cells = [
            _value(measure, value)
            for measure, value in zip(table["measure"], table["value"], strict=True)
        ]
    source = run.folder / f"{shown.name}.csv"
    return f"{caption}\n{grid(table.assign(cell=cells), shown.rows, columns, 'cell', source)}"


def _over(table: pd.DataFrame) -> str:
    """How many documents, trials or questions the intervals rest on."""
    for counted in ("documents", "trials", "questions"):
        if counted in table and "low" in table:
            least, most = int(table[counted].min()), int(table[counted].max())
            number_of = f"{least} to {most}" if least < most else f"{most}"
            return f" (95 % intervals; {number_of} {counted})"
    return ""


def _texts(shown: Table, run: Run) -> str:
    """Of which texts, where no column says it."""
    if "corpus" in (*shown.rows, *shown.columns):
        return ""
    try:
        texts = shown.texts(run.parameters)
    except (KeyError, IndexError):  # a run of another version of the notebook
        return ""
    return f", on {as_markdown(texts)}" if texts else ""


def _value(measure: str, value: float) -> str:
    if measure in ("holds to", "effective window"):
        return at(value)
    return (
        f"{value:g}"
        if measure in ("rounds", "times the window")
        else number(value, 4 if measure == "ratio" else 3)
    )


def _origins(profiles: Mapping[str, Results]) -> list[str]:
    """Where everything comes from: one row per run."""
    rows = [
        [
            profile,
            _link(notebook, run),
            as_markdown(run.model),
            as_markdown(", ".join(run.texts)),
            as_markdown(run.origin["device"]),
            as_markdown(", ".join(run.origin["versions"].get(name, "") for name in VERSIONS)),
            as_markdown(run.origin["commit"][:7]),
            number(run.origin["wall_seconds"] / 60, 2),
        ]
        for profile, results in profiles.items()
        for notebook, run in results.runs.items()
    ]
    head = ["profile", "notebook", "model", "texts", "device"]
    head += [", ".join(VERSIONS), "commit", "minutes"]
    return ["## Runs\n", BOOKS, rows_of(head, rows)]
