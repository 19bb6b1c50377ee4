"""One column in several tables, and what its facts in all of them say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamlr.data.ingest.column_facts import ColumnFacts, Sighting
from streamlr.data.ingest.table import Kind

LEAST_COUNTED_ROWS = 20
"""Rows from which on a column that counts them from 0 or 1 is taken for row numbers; below, as with
doses of 1, 2, 3, only its name tells."""
LEAST_NUMBERED_ROWS = 101
"""The same of a column that counts from elsewhere, as a part of a table does, but years too."""
MANY_DISTINCT = 100
"""Distinct texts of a column beyond which they identify rows, if more than half of them are."""
_LEAST_TEXT_SHARE = 0.1
"""Of the values of a column that identifies rows; numbers with few words among them measure."""


@dataclass(frozen=True, slots=True)
class Part:
    """The column in one table."""

    path: Path
    """Of the table."""
    kind: Kind
    """What the column says of itself there."""
    facts: ColumnFacts
    """What its rows say."""

    @property
    def is_text(self) -> bool:
        """Whether it holds text, be it beside numbers. Truth values go with 0 and 1 alone."""
        facts = self.facts
        return facts.text.count > 0 or (
            self.kind.dtype is None and facts.word.count > 0 and facts.other.count > 0
        )

    @property
    def values(self) -> int:
        """Rows with a value."""
        return self.facts.number.count + self.facts.word.count + self.facts.text.count


@dataclass(frozen=True, slots=True)
class Total:
    """How often something occurs in a column, and where first."""

    path: Path
    """Of the table that it occurs in first."""
    row: int
    """Number of the row there."""
    value: str
    """What stands there."""
    count: int
    """Rows of all tables."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of all tables."""

    name: str
    parts: tuple[Part, ...]
    """Those of the tables that have rows."""

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(part.facts.rows for part in self.parts)

    @property
    def is_text(self) -> bool:
        """Whether any table has text in it."""
        return any(part.is_text for part in self.parts)

    @property
    def gaps(self) -> Total | None:
        """Rows without a value: quotes keep the spelling of a gap a text, but among texts alone."""
        text = self.is_text
        return self.total(lambda facts: facts.gap if text else facts.gaps_of_numbers)

    def total(self, sighting: Callable[[ColumnFacts], Sighting]) -> Total | None:
        """Where something occurs first, and how often in all; None where it does not."""
        seen = [
            (part.path, sighting(part.facts)) for part in self.parts if sighting(part.facts).count
        ]
        if not seen:
            return None
        path, first = seen[0]
        return Total(path, first.row, first.value, sum(one.count for _, one in seen))

    @property
    def counts_rows(self) -> bool:
        """Whether it counts the rows of all tables, or those of each."""
        runs = [part.facts.run for part in self.parts]
        if self.is_text or self.gaps is not None or not all(run.by_one for run in runs):
            return False
        steps = runs[0].rows - 1
        for before, run in itertools.pairwise(runs):
            goes_on = run.first == before.last + 1
            if not goes_on and run.first != runs[0].first:
                return False
            steps += run.rows - (not goes_on)
        least = LEAST_COUNTED_ROWS if runs[0].first in (0, 1) else LEAST_NUMBERED_ROWS
        # few steps are those of a constant in files of a row each
        return runs[0].first.is_integer() and self.rows >= least and 2 * steps >= self.rows

    @property
    def distinct_texts(self) -> tuple[int, int]:
        """Distinct texts, and the rows that they were looked for in."""
        found = [part.facts.distinct for part in self.parts]
        hashes = np.concatenate([distinct.hashes for distinct in found]) if found else np.empty(0)
        return len(np.unique(hashes)), sum(distinct.rows for distinct in found)

    @property
    def identifies_rows(self) -> bool:
        """Whether it holds a name of each row, or nearly so."""
        distinct, rows = self.distinct_texts
        texts = sum(part.facts.text.count for part in self.parts)
        share = texts / max(1, sum(part.values for part in self.parts))
        return distinct > MANY_DISTINCT and 2 * distinct > rows and share >= _LEAST_TEXT_SHARE
