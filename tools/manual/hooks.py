"""What mkdocs does for the manual beside its pages in docs/: pages that are written when it is built,
sections taken from other documents, the executed tutorial, formulas.

A line `<!-- from CONTRIBUTING.md: ## A model -->` in a page stands for what follows the line that begins
so there, up to the next of its kind.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import claims
import reference
import tutorial
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "reference/configuration.md": "config/README.md",
}
"""Pages that are documents of the repository as they are."""
FROM = re.compile(r"^<!-- from (\S+): (.+?) -->$", re.MULTILINE)
FORMULA = re.compile(r"(?<=arithmatex\">)\\([(\[])(.*?)\\[)\]]", re.DOTALL)


def on_config(config):
    """A page a claim in the navigation."""
    entry = next(entry for entry in config.nav if "Claims" in entry)
    entry["Claims"] += [{name: f"claims/{name}.md"} for name in claims.names(ROOT)]
    return config


def on_files(files, config):
    """The pages that are no files in docs/."""
    written = {**claims.pages(ROOT), **reference.pages(), **tutorial.pages(ROOT)}
    for name, content in written.items():
        files.append(File.generated(config, name, content=content))
    for name, path in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, **_):
    """Sections of other documents in their places; a file's name as the title of its block."""
    taken = FROM.sub(lambda match: section(*match.groups()), markdown)
    return re.sub(
        r"^```(\w+)\n# (\S+/\S+\.\w+)\n", r'```\1 title="\2"\n', taken, flags=re.MULTILINE
    )


def section(name: str, start: str) -> str:
    """What follows the line of a document that begins with `start`, with the rest of that line."""
    text = (ROOT / name).read_text(encoding="utf-8")
    end = r"^## |\Z" if start.startswith("## ") else r"^## |^\*\*|\Z"
    line = f"{re.escape(start)}{'$' if start.startswith('## ') else ''}"
    found = re.findall(rf"^{line}(.*?)(?={end})", text, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise PluginError(f"{name} has no line, or several, that begin with '{start}'.")
    return found[0].strip()


def on_page_content(html, **_):
    """LaTeX as MathML, which browsers set by themselves."""
    return FORMULA.sub(mathml, html)


def mathml(match: re.Match[str]) -> str:
    """One formula, `\\(...\\)` in a line or `\\[...\\]` by itself."""
    return convert(html.unescape(match[2]), display="block" if match[1] == "[" else "inline")
