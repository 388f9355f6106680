"""Pages that are made from code are current, and links between pages lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hmr_skel
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


def test_every_page_is_reached_from_the_readme_and_stands_in_the_sites_navigation():
    reached, found = set(), [README]
    while found:
        page = found.pop()
        reached.add(page)
        targets = [(page.parent / target.partition("#")[0]).resolve() for target in links(page)]
        found += [target for target in targets if target.suffix == ".md" and target not in reached]
    in_site = set((ROOT / "docs").glob("*.md"))
    assert in_site - reached == {ROOT / "docs" / "index.md"}  # the README says the same
    named = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in in_site)


@pytest.mark.extra
def test_the_site_builds_without_a_warning(tmp_path: Path):
    """Links between its pages included. It fetches nothing from elsewhere when it is read."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert "hmr_skel.load_shards" in (tmp_path / "api.html").read_text()
    for page in tmp_path.glob("*.html"):
        assert not re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', page.read_text()), page.name


def test_the_page_of_public_calls_shows_the_public_names():
    shown = re.findall(r"heading: hmr_skel\.(\w+)(?:\.(\w+))?", (ROOT / "docs" / "api.md").read_text())
    assert {top for top, _ in shown} | {"__version__"} == set(hmr_skel.__all__)
    for top, inside in shown:
        found = getattr(hmr_skel, top)
        assert callable(getattr(found, inside) if inside else found)


def links(page: Path) -> list[str]:
    """Of a page, those that lead to files of ours."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """What links can name after a #, as code hosts make them of titles."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
