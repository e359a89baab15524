"""A table that people read: in the terminal and in a Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Sheet:
    """A table of texts; every column but the first is a column of numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def for_terminal(self) -> Table:
        """The table as rich draws it."""
        table = Table(title=Text(self.title))
        for number, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """The title as a heading, and a table."""
        head = [list(self.columns), ["---", *["--:"] * (len(self.columns) - 1)]]
        lines = ["| " + " | ".join(row) + " |" for row in [*head, *self.rows]]
        return "\n".join([f"## {self.title}", "", *lines])
