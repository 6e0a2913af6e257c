"""The manual: its examples run and print what it says, and it builds into pages that work offline."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from browser import chromium
from markdown_it import MarkdownIt

import lowrank
from lowrank.analysis.ledger import read_ledger
from lowrank.cli import main
from lowrank.methods import METHODS
from lowrank.parquet import read_table

ROOT = Path(__file__).parents[1]
EXCERPTS = ("docs/index.md", "docs/workflow.md")
"""Pages whose Python does not stand by itself: a model of yours, a Snakefile."""
PAGES = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "```python" in path.read_text(encoding="utf-8")
    and str(path.relative_to(ROOT)) not in EXCERPTS
]
MARK = "end of a block"


def python_blocks(path: Path) -> list[tuple[str, str | None]]:
    """A page's blocks of Python that stand by themselves, each with the `text` block that follows it."""
    fences = [t for t in MarkdownIt().parse(path.read_text("utf-8")) if t.type == "fence"]
    found = []
    for fence, following in zip(fences, [*fences[1:], None], strict=True):
        if fence.info == "python" and not re.match(r"# \S+/", fence.content):
            printed = following and following.info == "text"
            found.append((fence.content, following.content if printed else None))
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_s_examples_run_from_top_to_bottom_and_print_what_it_shows(path, tmp_path):
    blocks = python_blocks(path)
    assert blocks
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(f"{code}\nprint({MARK!r})" for code, _ in blocks)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.split(f"{MARK}\n")
    for (_, shown), output in zip(blocks, printed, strict=False):
        assert shown is None or output == shown


def test_each_page_stands_in_the_navigation_and_what_it_takes_from_elsewhere_is_there():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for path in (ROOT / "docs").rglob("*.md"):
        assert re.search(rf"[ \[]{path.relative_to(ROOT / 'docs')}\b", navigation), path
        for name, start in re.findall(
            r"^<!-- from (\S+): (.+?) -->$", path.read_text("utf-8"), re.M
        ):
            end = "$" if start.startswith("## ") else ""
            lines = (ROOT / name).read_text(encoding="utf-8")
            assert len(re.findall(rf"^{re.escape(start)}{end}", lines, re.M)) == 1, (path, start)


def test_the_tutorial_is_stored_without_outputs():
    notebook = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The manual, built strictly and where nothing can be fetched."""
    if find_spec("mkdocs") is None or find_spec("latex2mathml") is None:
        pytest.skip("mkdocs is not installed (make .venv/docs)")
    folder = tmp_path_factory.mktemp("manual") / "site"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | nowhere | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def text_of(page: Path) -> str:
    """The words of a page, without its marks."""
    article = page.read_text("utf-8").partition("<article")[2].partition("</article>")[0]
    return html.unescape(re.sub(r"<[^>]+>", "", article))


def test_each_claim_has_a_page_with_its_verdict_and_its_figure(site):
    published = read_table(ROOT / "published/laptop/claims.parquet")
    tests = published[(published["level"] == "test") & (published["verdict"] != "not run")]
    overview = text_of(site / "claims/index.html")
    for claim in read_ledger(ROOT / "config/claims.yaml").claims:
        page = text_of(site / f"claims/{claim.id}.html")
        assert claim.sentence in page and claim.sentence in overview
        told = page.split("Verdict at the scale laptop")[1].split("How it is tested")[0]
        ran = tests[tests["claim"] == claim.id]
        assert len(ran) and all(track in told for track in ran["track"])
        assert (site / f"claims/{claim.id}.svg").stat().st_size > 5000


def test_the_reference_names_every_function_command_and_method(site):
    library = (site / "reference/library.html").read_text("utf-8")
    for name in lowrank.__all__:
        assert re.search(rf'<h2 id="lowrank\.api\.\w+\.{name}"', library), name
    commands = text_of(site / "reference/commands.html")
    assert all(f"Usage: lowrank {name}" in commands for name in main.commands)
    names = text_of(site / "reference/names.html")
    for name in METHODS.names():
        assert name in names
        assert all(f"{key} = " in names for key in METHODS[name].options.model_fields)


def test_the_tutorial_s_page_shows_what_its_cells_gave(site):
    page = (site / "tutorial.html").read_text("utf-8")
    assert page.count("<img") == 2 and "trained in low rank" in page
    assert "Warning" not in page and str(ROOT) not in page


def test_formulas_are_set_without_scripts(site):
    page = (site / "method.html").read_text("utf-8")
    assert page.count("<math") > 50
    assert "\\(" not in text_of(site / "method.html")


def test_links_lead_to_what_is_there_and_nothing_is_fetched(site):
    ids = {}
    for page in site.rglob("*.html"):
        ids[page.resolve()] = set(re.findall(r'\bid="?([^"\s>]+)', page.read_text("utf-8")))
    for page in ids:
        text = page.read_text("utf-8")
        for tag, link in re.findall(r'<(\w+)[^>]*?\s(?:href|src)="?([^"\s>]+)', text):
            parts = urlsplit(html.unescape(link))
            if parts.scheme or parts.netloc:
                assert tag == "a", f"{page}: {link} is fetched"
                continue
            if page.name == "404.html":
                continue  # it is served from anywhere, so its links begin at the root
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page}: {link}"
            if parts.fragment and target in ids:
                assert unquote(parts.fragment) in ids[target], f"{page}: {link}"


@pytest.mark.browser
@pytest.mark.parametrize("width", [1400, 390])
def test_pages_fit_their_window_and_show_every_picture(site, width):
    with chromium() as window:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for page in sorted(site.rglob("*.html")):
            if page.name == "404.html":
                continue
            window.get(page.as_uri())
            name = page.relative_to(site)
            wide = "return document.documentElement.scrollWidth - window.innerWidth"
            assert window.execute_script(wide) <= 0, name
            broken = """return [...document.images].filter(image => image.naturalWidth === 0)
                .map(image => image.src)"""
            assert not window.execute_script(broken), name
            assert not window.get_log("browser"), name


@pytest.mark.browser
def test_the_search_works_in_pages_opened_as_files(site):
    with chromium() as window:
        window.get((site / "index.html").as_uri())
        field = window.find_element("css selector", "[data-md-component=search-query]")
        field.click()
        field.send_keys("Frobenius")
        found = window.find_element("css selector", ".md-search-result__link")
        assert "decay" in found.text.lower()
