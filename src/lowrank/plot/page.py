"""Several tables with headings and sentences on one page, written as a single table is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lowrank import escape
from lowrank.plot.table import Table, html_page, notebook_html


@dataclass(frozen=True)
class Part:
    """A section of a page; what is empty is left out."""

    heading: str = ""
    text: str = ""
    table: Table | None = None

    def html(self) -> str:
        """Its heading, text and table."""
        return "\n".join(
            f"<{tag}>{escape.markup(text)}</{tag}>" if tag else text
            for tag, text in (
                ("h2", self.heading),
                ("p", self.text),
                ("", self.table.html_table() if self.table else ""),
            )
            if text
        )

    def markdown(self) -> str:
        """The same as Markdown."""
        parts = (
            f"## {escape.markdown(self.heading)}" if self.heading else "",
            escape.markdown(self.text),
            self.table.markdown().rstrip("\n") if self.table else "",
        )
        return "\n\n".join(filter(None, parts))


@dataclass(frozen=True)
class Page:
    """Parts under a title. As LaTeX, which has no pages, it is one table; as CSV all the numbers."""

    title: str
    parts: Sequence[Part]
    table: Table
    numbers: pd.DataFrame

    def _repr_html_(self) -> str:
        return notebook_html(self._body())

    def _body(self) -> str:
        return "\n".join(part.html() for part in self.parts)

    def html(self, title: str) -> str:
        """A page of its own that needs nothing else; its own title is its heading."""
        return html_page(title, f"<h1>{escape.markup(self.title)}</h1>\n{self._body()}")

    def csv(self) -> str:
        """Every column of the numbers."""
        return self.numbers.to_csv(index=False, lineterminator="\n")

    def fields(self) -> list[list[str]]:
        """The fields of the page's one table."""
        return self.table.fields()

    def markdown(self) -> str:
        """GitHub's tables under headings."""
        parts = "\n\n".join(filter(None, (part.markdown() for part in self.parts)))
        return f"# {escape.markdown(self.title)}\n\n{parts}\n"

    def latex(self) -> str:
        """The tabular of the page's one table."""
        return self.table.latex()
