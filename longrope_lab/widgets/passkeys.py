"""A passkey heatmap to click: which prompt stood behind a cell, and what the model answered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets
import matplotlib as mpl
import pandas as pd
from matplotlib.colors import to_hex

from ..measure.needle_prompts import ANSWER_TOKENS, passkey_prompt
from ..measure.stats import accuracy_summary
from ..plots.axes import check_drawable
from ..plots.measured import in_words
from ..plots.style import styles_of, tokens
from ..texts.tokens import Document
from .explorer import Controls, Shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters of the prompt shown at its beginning, on each side of the key, and at its end.
GLIMPSE = 260
CHOSEN, DASHED = "3px solid #D55E00", "2px dashed #777777"


class PasskeyExplorer(Shown):
    """What `explore_passkeys` returns.

    `.cells` holds the buttons by (length, depth), `.row` is the row of the table that is shown,
    `.text` and `.caption` what is said of it. Controls: scaling, trial, whole."""

    def __init__(
        self,
        table: pd.DataFrame,
        tokenizer: PreTrainedTokenizerBase,
        window: int | None,
        filler: Sequence[Document] | None,
        seed: int,
        *,
        chat: bool = False,
        answer_tokens: int = ANSWER_TOKENS,
    ) -> None:
        self.table, self.tokenizer, self.window = table, tokenizer, window
        self.filler, self.seed = filler, seed
        self._made = partial(passkey_prompt, chat=chat, answer_tokens=answer_tokens)
        check_drawable(table, "passkey", "length", "depth", "trial", "correct", window=window)
        self.row = table.iloc[0]
        self.cells: dict[tuple[int, float], Any] = {}
        self._prompt()  # the door: is this how the table was made?
        self.controls = self._make_controls()
        self.caption, self.text = ipywidgets.HTML(), ipywidgets.HTML()
        self._grid = ipywidgets.VBox()
        self.widget = self._lay_out()
        self.controls["scaling"].observe(self._draw_grid, names="value")
        for name in ("trial", "whole"):
            self.controls[name].observe(self._tell, names="value")
        self._draw_grid()

    def _make_controls(self) -> Controls:
        names = [str(name) for name in self.table["scaling"].unique()]
        return {
            "scaling": ipywidgets.Dropdown(
                options=[(styles_of([n])[n].label, n) for n in names], description="scaling"
            ),
            "trial": ipywidgets.ToggleButtons(description="trial", style={"button_width": "56px"}),
            "whole": ipywidgets.Checkbox(description="the whole prompt", indent=False),
        }

    def _lay_out(self) -> Any:
        """The grid of buttons on the left, what is said of a cell on the right."""
        grid = ipywidgets.VBox(
            [self.controls["scaling"], self._grid], layout=ipywidgets.Layout(flex="0 0 auto")
        )
        details = ipywidgets.VBox(
            [self.controls["trial"], self.caption, self.text, self.controls["whole"]],
            layout=ipywidgets.Layout(margin="0 0 0 24px", flex="1 1 auto"),
        )
        return ipywidgets.HBox([grid, details])

    def click(self, length: int, depth: float) -> None:
        """Show the trials of a cell, first the first that went wrong, if any did."""
        for cell, button in self.cells.items():
            button.layout.border_bottom = CHOSEN if cell == (length, depth) else None
        trials = self._in_cell(length, depth)
        failures = trials[~trials["correct"]]
        self.row = (failures if len(failures) else trials).iloc[0]
        control = self.controls["trial"]
        marks = zip(trials["trial"].tolist(), trials["correct"].tolist(), strict=True)
        control.options = [
            (f"{trial} {'✓' if correct else '✗'}", trial) for trial, correct in marks
        ]
        control.value = int(self.row["trial"])
        self._tell()

    def _of_scaling(self) -> pd.DataFrame:
        chosen: pd.DataFrame = self.table[self.table["scaling"] == self.controls["scaling"].value]
        return chosen

    def _in_cell(self, length: int, depth: float) -> pd.DataFrame:
        rows = self._of_scaling()
        return rows[(rows["length"] == length) & (rows["depth"] == depth)]

    def _draw_grid(self, _: object = None) -> None:
        """One button per cell, coloured as the heatmap is.

        Then the cell chosen before is shown, or the first."""
        summary = accuracy_summary(self._of_scaling(), by=("length", "depth"))
        columns = (summary[name].tolist() for name in ("length", "depth", "accuracy", "trials"))
        shares = {(n, d): (share, count) for n, d, share, count in zip(*columns, strict=True)}
        lengths, depths = sorted({n for n, _ in shares}), sorted({d for _, d in shares})
        beyond = [n for n in lengths if self.window is not None and n > self.window]
        edges = {n: {"border_left": DASHED} if n in beyond[:1] else {} for n in lengths}
        self.cells = {
            cell: self._button(cell, *found, edges[cell[0]]) for cell, found in shares.items()
        }
        rows = [[_label("depth"), *(_label(tokens(n), **edges[n]) for n in lengths)]]
        for depth in depths:  # a cell that was not measured is left empty
            cells = [self.cells.get((n, depth)) or _label("", **edges[n]) for n in lengths]
            rows.append([_label(f"{depth:.0%}"), *cells])
        note = "length (tokens)"
        if self.window is not None and beyond:
            note += f"; dashed: trained window of {tokens(self.window)}"
        self._grid.children = [*map(ipywidgets.HBox, rows), ipywidgets.HTML(note)]
        chosen = (int(self.row["length"]), float(self.row["depth"]))
        self.click(*(chosen if chosen in self.cells else next(iter(self.cells))))

    def _button(
        self, cell: tuple[int, float], share: float, trials: int, edge: dict[str, str]
    ) -> Any:
        length, depth = cell
        button = ipywidgets.Button(
            description=in_words(share, trials),
            tooltip=f"{length:,} tokens, key at {depth:.0%}",
            layout=_cell_layout(**edge),
            style={
                "button_color": to_hex(mpl.colormaps["cividis"](share)),
                "text_color": "white" if share < 0.55 else "black",
            },
        )
        button.on_click(lambda _: self.click(*cell))
        return button

    def _prompt(self) -> str:
        """The text of the prompt behind the row."""
        length, depth = int(self.row["length"]), float(self.row["depth"])
        trial = int(self.row["trial"])
        ids, key = self._made(self.tokenizer, length, depth, trial, self.filler, self.seed)
        if key != str(self.row["expected"]):
            raise ValueError(
                f"the key at length {length}, depth {depth}, trial {trial} is {key} with seed "
                f"{self.seed}, and the table expects {self.row['expected']}: pass the tokenizer, "
                "seed and filler that made the table"
            )
        return str(self.tokenizer.decode(ids))

    def _tell(self, _: object = None) -> None:
        """The chosen trial in words: what was expected, what came, and the prompt."""
        trials = self._in_cell(self.row["length"], self.row["depth"])
        row = self.row = trials[trials["trial"] == self.controls["trial"].value].iloc[0]
        colour = "#009E73" if row["correct"] else "#D55E00"
        answer = "" if pd.isna(row["answer"]) else str(row["answer"])
        self.caption.value = (
            f"{row['length']:,} tokens, key at {row['depth']:.0%} of the text: expected "
            f"<b>{escape(str(row['expected']))}</b>, answered "
            f'<b style="color: {colour}">{escape(answer) or "(nothing)"}</b>'
        )
        shown = _marked(self._prompt(), str(row["expected"]), whole=self.controls["whole"].value)
        self.text.value = (
            '<div style="white-space: pre-wrap; max-height: 320px; overflow-y: auto; '
            'line-height: 1.35; border: 1px solid #CCCCCC; padding: 6px">'
            f'{shown} <b style="color: {colour}">{escape(answer)}</b></div>'
        )


def explore_passkeys(
    table: pd.DataFrame,
    tokenizer: PreTrainedTokenizerBase,
    window: int | None = None,
    filler: Sequence[Document] | None = None,
    seed: int = 0,
    *,
    chat: bool = False,
    answer_tokens: int = ANSWER_TOKENS,
) -> PasskeyExplorer:
    """The heatmap of a `passkey` table as buttons: click a cell for its prompts and answers.

    Nothing is measured: answers are the table's, prompts are made again from the arguments that
    made the table.

    Args:
        table: as `passkey` returns it, or read back from a CSV.
        tokenizer, filler, seed, chat, answer_tokens: those given to `passkey`.
        window: the trained window in tokens, marked by a dashed line before the first length beyond
            it.

    Raises:
        ValueError: an empty table, or a tokenizer, filler or seed that give other keys than the
            table's.
    """
    if table.empty:
        raise ValueError("the passkey table has no rows: there is no prompt to show")
    explorer = partial(PasskeyExplorer, chat=chat, answer_tokens=answer_tokens)
    return explorer(table, tokenizer, window, filler, seed)


def _marked(prompt: str, key: str, whole: bool) -> str:
    """The prompt as HTML with the key marked.

    Unless it is `whole`, the filler between is counted and left out."""
    place = prompt.find(key)
    pieces, last = [], 0
    spans = [(0, GLIMPSE), (place - GLIMPSE, place + GLIMPSE), (len(prompt) - GLIMPSE, len(prompt))]
    for start, end in [(0, len(prompt))] if whole else spans:
        start = max(start, last)
        if start > last:
            pieces.append(
                f'<span style="color: #999999"> […{start - last:,} more characters…] </span>'
            )
        pieces.append(escape(prompt[start : max(end, start)]))
        last = max(end, last)
    return "".join(pieces).replace(key, f'<mark style="background: #F0E442">{key}</mark>')


def _label(text: str, **layout: str) -> Any:
    return ipywidgets.HTML(
        f'<div style="text-align: center">{text}</div>', layout=_cell_layout(**layout)
    )


def _cell_layout(**further: str) -> Any:
    return ipywidgets.Layout(width="60px", height="32px", margin="0", padding="0", **further)
