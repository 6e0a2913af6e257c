"""A stranger's names stay text in every format."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import markdown_it
import matplotlib
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lowrank import escape
from lowrank.plot import style
from lowrank.plot.table import Column, Table, words

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></tr></table><img src=x onerror=alert(1)>",
    "<!-- hidden",
    "&lt;b&gt; & &#x3c;b>",
    '"><svg onload="alert(1)">',
    "[x](javascript:alert(1))",
    "[[x]](javascript:alert(1)) [y][x] [x][] [ ] [^1]",
    "![x](http://example.org/pixel.png)",
    "<javascript:alert(1)>",
    "https://example.org and www.example.org",
    "[x]: http://example.org",
    "a | b \\| c \\\\| d |",
    "ends in a backslash \\",
    "`code` ``` ~~~ ~~struck~~ **bold** __bold__ _it_",
    "# heading",
    "$x^2$ and $$\\frac{1}{0}$$ and $",
    "$\\undefined{",
    "\\input{/etc/passwd} \\write18{ls} \\end{tabular}",
    "^^5cinput",
    "[1em] *",
    "*starred",
    "% comment",
    "]] #eval(1) @label <label>",
    "two\nlines\r\nand\ttabs\x0b\x85\u2028end",
    "nul\x00 bell\x07 escape\x1b[31mred\x1b[0m",
    "\u202egnp.exe\u202c \u2066isolated\u2069 \u200fmark",
    "_hidden from legends",
    "x" * 10_000,
]


def shown(text: str) -> str:
    return escape.visible(text)


@pytest.fixture(params=range(len(HOSTILE)), ids=lambda i: repr(HOSTILE[i])[:24])
def hostile(request):
    return HOSTILE[request.param]


@pytest.fixture
def table(hostile):
    """The text as the field of a row, as a heading, and beside an ordinary column."""
    columns = [words(hostile, "name"), Column("n", lambda row: "1")]
    return Table(pd.DataFrame({"name": [hostile, "plain"]}), columns)


class Page(HTMLParser):
    """Which elements a page has, and the text of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.cells: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def parsed(source: str) -> Page:
    page = Page()
    page.feed(source)
    return page


def test_visible_text_is_one_line_without_controls_or_marks_of_direction(hostile):
    text = shown(hostile)
    assert text.isprintable() and len(text) <= escape.LONGEST
    assert not re.search("[\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    assert shown(text) == text


def test_ordinary_text_is_left_alone():
    for text in ("spectral_ones-r0.62", "−0.012 [−0.020, −0.004]*", "3.6 ± 0.1", "λ, 5 %", "Å 中"):
        assert shown(text) == text


def test_html_page_and_notebook_show_the_text_and_gain_no_element(table, hostile):
    for source, tags in (
        (table.html(hostile), {"html", "head", "meta", "title", "style", "body"}),
        (table._repr_html_(), {"div"}),
    ):
        page = parsed(source)
        assert set(page.tags) == tags | {"table", "thead", "tbody", "tr", "th", "td"}
        assert page.attributes <= {"class", "lang", "charset"}
        assert page.cells[0] == page.cells[2] == shown(hostile)
        assert [cell.strip() for cell in page.cells[3:]] == ["1", "plain", "1"]
    assert "mathjax_ignore" in table._repr_html_(), "a notebook would set what is between dollars"


def test_markdown_renders_as_the_text_without_links_or_tags(table, hostile):
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = parsed(parser.render(table.markdown()))
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    assert page.cells[0].strip() == page.cells[2].strip() == shown(hostile)
    assert [cell.strip() for cell in page.cells[3:]] == ["1", "plain", "1"]
    assert not re.search(r"(?<!\\)\$", table.markdown()), "GitHub sets what is between dollars"
    assert not re.search(r"www\.|\w://", table.markdown()), "GitHub makes links of bare addresses"


def test_json_holds_the_text_as_it_is_shown(table, hostile):
    assert table.fields() == [[shown(hostile), "n"], [shown(hostile), "1"], ["plain", "1"]]


def test_latex_holds_the_text_and_no_command_of_its_own(table, hostile):
    source = table.latex()
    commands = set(re.findall(r"\\([a-zA-Z]+)", source.split("\n", 1)[1]))
    ours = {"begin", "end", "toprule", "midrule", "bottomrule"}
    assert commands <= ours | set(re.findall(r"\\([a-zA-Z]+)", " ".join(escape.LATEX.values())))
    lines = source.splitlines()
    assert len(lines) == 3 + 2 + 2 + 2, "one line a row"
    for line in (lines[3], lines[5]):
        text, rest = line.removesuffix(r" \\").rsplit(" & ", 1)
        assert rest in ("n", "1")
        assert not re.search(r"(?<!\\)[%#_^~&]", text.replace("\\textbackslash{}", ""))
        assert not text.startswith(("[", "*")), r"the \\ before it would take it"
        depth = 0
        for brace in re.findall(r"(?<!\\)[{}]", text):
            depth += 1 if brace == "{" else -1
            assert depth >= 0
        assert depth == 0


def test_figure_draws_the_text_and_no_mathematics(hostile):
    figure, (ax,) = style.canvas(width=style.COLUMN)
    label = escape.label(hostile)
    line = ax.plot([0, 1], label=f"{label}, {label}")[0]
    ax.set_xlabel(f"{label} of {label}")
    legend = style.legend_below(figure, [line])
    figure.draw(FigureCanvasAgg(figure).get_renderer())
    assert legend.get_texts()[0].get_text() == f"{label}, {label}"
    assert not matplotlib.cbook.is_math_text(f"{label} of {label}")
    assert matplotlib.cbook.is_math_text(f"{label} $x$"), "our own mathematics stays"
    assert len(label.replace(r"\$", "$").lstrip()) <= escape.LABEL


def test_entities_are_not_read_twice():
    text = r"\&lt; &amp;lt; &lt;"
    rendered = markdown_it.MarkdownIt("commonmark").renderInline(escape.markdown(text))
    assert html.unescape(rendered) == text
    assert html.unescape(escape.markup(text)) == text
