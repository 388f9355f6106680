"""Pages that are made from code are current, and links between pages lead somewhere."""

import re
from pathlib import Path

import pytest

from hmr_skel.cli import main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([README, *(ROOT / "docs").glob("*.md")])


def test_the_schema_page_is_current(capsys):
    assert main(["schema"]) == 0
    assert (ROOT / "docs" / "schema.md").read_text() == capsys.readouterr().out, "hmr-skel schema > docs/schema.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in links(page):
        path, _, heading = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in anchors(other), f"{page.name} links to {target}"


def test_every_page_is_reached_from_the_readme():
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(README)}
    assert {page for page in PAGES if page != README} <= linked


def links(page: Path) -> list[str]:
    """Of a page, those that lead to files of ours."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What links can name after a #, as code hosts make them of titles."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
