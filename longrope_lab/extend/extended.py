"""What a plan made of a model: the scalings of each stage, their histories, and what to export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..rope.scaling import RopeScaling
from ..rope.schedule import LengthSchedule
from ..searches.run import search
from ..searches.space import SearchSpace
from ..texts.tokens import Document
from .plan import Plan
from .plan_run import best_of, documents_for, history_file
from .stages import FineTune, Recover
from .wording import naming

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False, repr=False)
class Extended:
    """What a plan made of a model, whose weights are now the fine-tuned ones.

    Args:
        plan: what was run.
        schedule: the recovered scalings and, beyond them, that of the longest search or formula.
        scalings: what each search and formula gave, by length.
        recovered: what each recovery found, by length.
        tuned: the scaling that the weights were last trained at; None without a fine-tuning.
        folders: of the stages that were run, in order.
    """

    plan: Plan
    schedule: LengthSchedule
    scalings: dict[int, RopeScaling]
    recovered: dict[int, RopeScaling]
    tuned: RopeScaling | None
    folders: tuple[Path, ...]

    def __repr__(self) -> str:
        sets = self.schedule.scalings
        trained = "not trained" if self.tuned is None else f"at {self.tuned.target_length:,} tokens"
        lines = [
            f"  up to {s.target_length:,} tokens: factors {s.factors.min():.4g} to "
            f"{s.factors.max():.4g}, m {s.attention_factor:.4g}"
            for s in sets
        ]
        reach = f"from {self.schedule.spec.window:,} to {sets[-1].target_length:,} tokens"
        return "\n".join([f"Extended {reach}; weights {trained}:", *lines])

    @property
    def histories(self) -> dict[str, pd.DataFrame]:
        """What each stage measured, by the name of its folder.

        A search has the table of its `SearchResult`, a fine-tuning the one that `finetune` returns.
        """
        files = {folder.name: history_file(folder) for folder in self.folders}
        return {name: pd.read_csv(file) for name, file in files.items() if file.is_file()}

    @property
    def training_loss(self) -> pd.DataFrame:
        """The fine-tunings' histories one below the other, tokens counted over all of them.

        Raises:
            ValueError: no fine-tuning was run.
        """
        histories, tables, before = self.histories, [], 0
        for name, stage in self.plan.named.items():
            if isinstance(stage, FineTune) and name in histories:
                table = histories[name]
                tables.append(table.assign(tokens=table["tokens"] + before))
                before += stage.tokens
        if not tables:
            raise ValueError("no fine-tuning was run, so there is no training loss")
        return pd.concat(tables)

    def for_config(
        self, model: PreTrainedModel, search_docs: Sequence[Document], *, seed: int = 0
    ) -> LengthSchedule:
        """The schedule as a Hugging Face config can hold it, for `save_pretrained`.

        A config takes at most two sets of factors, and one m for both. Of more sets the longest two
        are kept. Where the shorter one has another m, its recovery is searched again at the longer
        one's; it then reads short texts worse, the more the further the two lie apart. A plan whose
        searches keep ``attention_factors=1.0`` loses nothing here, and a little of long texts.

        Args:
            model: the extended model.
            search_docs: as `progressive` had them.
            seed: of the search.

        Raises:
            ValueError: too few documents of the recovery's length.
            KeyboardInterrupt: the search was stopped by hand.
        """
        if len(self.schedule.scalings) < 2:
            return self.schedule
        short, long = self.schedule.scalings[-2:]
        length = short.target_length
        if short.attention_factor != long.attention_factor:
            recoveries = [stage for stage in self.plan.stages if isinstance(stage, Recover)]
            recovery = next(stage for stage in recoveries if stage.length == length)
            with naming(recovery):
                docs = documents_for(recovery, search_docs)
            space = SearchSpace.below(long, length)
            found = search(model, docs, length, recovery.method, space=space, seed=seed)
            short = best_of(found, "while it looked for factors at one m: call again")
        return LengthSchedule((short, long))
