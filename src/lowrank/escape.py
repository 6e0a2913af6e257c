"""Text from tables as text in every format: names of unknown origin cannot become markup.

Names of cells, labels, devices and statements come from tables, and tables may be anyone's. Each
function here takes such text to one format, in which it reads as it stands and does nothing.
"""

from __future__ import annotations

import html
import re
import unicodedata

LONGEST = 2000
"""Characters of a field that are shown; CSV files have all."""
LABEL = 48
"""Characters of a label in a figure."""
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}
"""Unicode's categories of what has no shape: controls, marks that reverse text, no characters."""


def visible(text: str, longest: int = LONGEST) -> str:
    """One line of `text` that shows all it holds: space for line breaks and tabs, `�` for controls
    and marks of direction; what is longer than `longest` ends in `…`."""
    line = " ".join(text[: 4 * longest].split())
    line = "".join("�" if unicodedata.category(c) in HIDDEN else c for c in line)
    return line if len(line) <= longest else line[: longest - 1].rstrip() + "…"


def label(text: str, longest: int = LABEL) -> str:
    """For a figure: dollars are dollars and begin no mathematics, and a legend shows it."""
    shown = visible(text, longest).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # legends leave such names out


def markup(text: str) -> str:
    """For HTML, within elements and quoted attributes."""
    return html.escape(visible(text))


def markdown(text: str) -> str:
    """For Markdown, in tables too: nothing is a link, a tag, mathematics or a cell's end."""
    text = re.sub(r"&(?=#|\w)", "&amp;", visible(text))
    text = re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", text)
    text = re.sub(r"([\\`*_|$~]|\](?=[\[(:]))", r"\\\1", text)
    # GitHub makes links of bare addresses too.
    return re.sub(r"(?i)\b(www)(\.)|\b(\w+)(:)(?=//)", r"\1\3\\\2\4", text)


LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    '"': "''",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "–": "--",
    "…": r"\ldots{}",
    "�": "?",
}


def latex(text: str) -> str:
    """For a field of a LaTeX table."""
    escaped = "".join(LATEX.get(character, character) for character in visible(text))
    # [ would be taken for the argument of the \\ before it, * for its starred form.
    return f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped
