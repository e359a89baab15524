"""A table that people read: in the terminal and in a Markdown file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Sheet:
    """A table of texts; every column but the first is one of numbers, unless it is named among the words."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Collection[str] = ()
    """Columns of words beside the first."""

    def for_terminal(self) -> Table:
        """The table as rich draws it."""
        table = Table(title=Text(self.title))
        for number, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if self._holds_numbers(number) else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """The title as a heading, and a table."""
        rules = ["--:" if self._holds_numbers(number) else "---" for number in range(len(self.columns))]
        head = [list(self.columns), rules]
        lines = ["| " + " | ".join(row) + " |" for row in [*head, *self.rows]]
        return "\n".join([f"## {self.title}", "", *lines])

    def _holds_numbers(self, number: int) -> bool:
        return number > 0 and self.columns[number] not in self.words
