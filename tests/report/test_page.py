import base64
import html
import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest

from hmr_skel.cli import main
from tests.report.browser import browse, find_chromium
from tests.report.conftest import HARMFUL, HARMFUL_SOURCE, write_dataset, write_manifest

pytestmark = pytest.mark.usefixtures("without_shape_checks")  # as users run the commands

CHROMIUM = find_chromium()


def words(page: Path) -> str:
    """What a reader sees, with single spaces."""
    text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(text))


def attributes(page: Path, tag: str, name: str) -> list[str]:
    """The values of an attribute, of all elements that have it."""
    return [html.unescape(found) for found in re.findall(rf'<{tag}\b[^>]*?\s{name}="([^"]*)"', page.read_text())]


def viewer_rows(page: Path) -> list[dict]:
    """What the page's viewer draws."""
    data = re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page.read_text(), re.DOTALL)
    return json.loads(data[1])["rows"]


@pytest.fixture(scope="module")
def page(small, tmp_path_factory) -> Path:
    """The report of the small dataset, as the command writes it."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert main(["report", str(small.folder), "--manifest", str(small.manifest), "-o", str(out), "-q"]) == 0
    return out


def test_all_that_is_promised_is_there(page):
    sections = {"fits", "viewer-section", "errors", "angles", "betas", "rows", "speed", "shards", "about"}
    assert set(attributes(page, "section", "id")) == sections
    seen = words(page)
    for text in (
        "24 rows kept of 27 read", "Half of 20 fitted rows lie within", "3 rows (12.5 %) have a joint angle outside",
        "People of a test <i>", HARMFUL_SOURCE, "|smpl_betas[0]| is 40; expected 10 at most", "2 of street",
        "converged at a limit", "given as SKEL", "knee_angle_r", "upper arms",
        "% of the bones' vertices are more than 2 mm outside",
        "recipe shape convert, root frozen, limits anatomical made by hmr-skel",
    ):  # fmt: skip
        assert text in seen, text


def test_it_fetches_nothing_and_is_small(page):
    assert page.stat().st_size < 10e6
    fetched = [*attributes(page, "img", "src"), *attributes(page, "script", "src"), *attributes(page, "link", "href")]
    assert len(fetched) > 15
    assert all(place.startswith("data:") for place in fetched)
    assert any("default-src 'none'" in content for content in attributes(page, "meta", "content"))


def test_links_lead_to_the_shards(page):
    links = [unquote(link) for link in attributes(page, "a", "href") if not link.startswith("#")]
    assert len(links) == 3  # two shards, and the rejects of one
    assert all((page.parent / link).resolve().is_file() for link in links)


def test_names_cannot_leave_their_place(page):
    """Text of the dataset is text, in HTML and in the viewer's data alike."""
    content = page.read_text()
    assert HARMFUL not in content
    assert html.escape(HARMFUL) in content
    rows = viewer_rows(page)
    assert {row["title"] for row in rows} >= {"Best fit", "Median fit", "Worst fit"}
    assert any(HARMFUL in row["title"] + str(row["facts"]) for row in rows)


def test_the_viewer_has_the_bodies_themselves(page, small):
    """Unpacked as viewer.js does: the distances are those of the dataset, to the packing's 0.05 mm."""
    by_id = dict(zip(small.table["row_id"].to_pylist(), small.distances_mm.mean(1), strict=False))
    for row in viewer_rows(page):
        skin, target = (unpack(row, name) for name in ("skin", "target"))
        found = np.linalg.norm(skin - target, axis=1).mean() * 1000
        assert found == pytest.approx(by_id[dict(row["facts"])["row"]], abs=0.1)
        assert np.ptp(skin[:, 1]) == pytest.approx(1.7, abs=0.25)  # upright: y is up
        assert unpack(row, "bones").shape[0] > 10_000


def unpack(row: dict, name: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(row["meshes"][name]), "<i2").reshape(-1, 3) * row["step"]


@pytest.mark.extra
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium); the page is not opened")
def test_in_a_browser(page, tmp_path):
    with browse(CHROMIUM, tmp_path / "profile") as tab:
        tab.open(page, 1000, 600)  # software draws the viewer here: not more pixels than it takes
        assert tab.evaluate("document.querySelector('#viewer').className") == ""  # WebGL is there
        tab.evaluate("document.querySelector('#viewer').scrollIntoView({block: 'center', behavior: 'instant'})")
        # By itself, until it is touched.
        tab.wait("Math.abs(document.querySelector('canvas').dataset.azimuth) > 1")
        tab.evaluate("document.querySelector('[data-look=front]').click()")
        assert float(tab.evaluate("document.querySelector('canvas').dataset.azimuth")) == 0
        before = drawn(tab)
        box = tab.evaluate("JSON.parse(JSON.stringify(document.querySelector('canvas').getBoundingClientRect()))")
        x, y = box["left"] + box["width"] / 2, box["top"] + box["height"] / 2
        tab.drag((x, y), (x + 120, y))
        assert abs(float(tab.evaluate("document.querySelector('canvas').dataset.azimuth"))) > 10
        after = drawn(tab)
        assert different(before, after)
        # Another row, and each layer, changes what is seen.
        for action in (
            "document.querySelector('[data-row=\"2\"]').click()",
            "document.querySelector('[data-viewer=bones]').click()",
            "document.querySelector('[data-viewer=heat]').click()",
            "document.querySelector('[data-viewer=skin]').click(); "
            "document.querySelector('[data-viewer=target]').click()",
        ):
            before = after
            tab.evaluate(action)
            after = drawn(tab)
            assert different(before, after), action
        boxes = "[...document.querySelectorAll('.wide, .scroll')]"
        for width in (1280, 420):  # nothing is wider than the window but what scrolls, and that says so
            tab.resize(width, 600)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.wait(f"{boxes}.every((b) => b.classList.contains('cut') === b.scrollWidth > b.clientWidth + 1)")
        assert tab.evaluate(f"{boxes}.some((b) => getComputedStyle(b, '::before').content.includes('scroll sideways'))")
        assert tab.errors == []
        assert {url for url in tab.requests if not url.startswith("data:")} == {page.resolve().as_uri()}


def drawn(tab) -> np.ndarray:
    """The viewer's pixels."""
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    box = tab.evaluate("JSON.parse(JSON.stringify(document.querySelector('canvas').getBoundingClientRect()))")
    top = box["y"] + tab.evaluate("window.scrollY")  # a clip counts from the page's head
    png = tab.screenshot({"x": box["x"], "y": top, "width": box["width"], "height": box["height"]})
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).astype(int)


def different(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.abs(a - b).max(-1) > 25).mean() > 0.003)


@pytest.mark.usefixtures("small_pictures")
def test_a_dataset_that_was_given_as_skel(small, tmp_path, capsys):
    """Nothing was fitted: no errors, no targets, and no shards with rejects; pictures all the same."""
    write_dataset(tmp_path / "set", small.manifest, small.table.slice(20, 4))
    assert main(["report", str(tmp_path / "set"), "--manifest", str(small.manifest)]) == 0
    assert "4 rows, 0 rejected, no row was fitted" in capsys.readouterr().out
    page = tmp_path / "set" / "report.html"
    assert "errors" not in attributes(page, "section", "id")
    assert "4 rows that came as SKEL already" in words(page)
    assert "No row was rejected." in words(page)
    assert {"Row 0", "Row 2", "Row 3"} <= set(re.findall(r"Row \d", words(page)))


def test_shards_of_different_recipes_are_told_apart(small, tmp_path, open_body_dir):
    """Whoever changes the manifest between two shards has a dataset of two kinds."""
    for index, recipe in enumerate(("default", "refine")):
        manifest = write_manifest(tmp_path, open_body_dir, recipe=recipe)
        write_dataset(tmp_path / "set", manifest, small.table, only=index)
    assert main(["report", str(tmp_path / "set"), "--no-pictures", "-q"]) == 0
    seen = words(tmp_path / "set" / "report.html")
    assert "shape convert, root frozen, limits anatomical; not the same in all shards" in seen


def test_without_pictures_no_model_is_needed(small, tmp_path, capsys):
    out = tmp_path / "plain.html"
    assert main(["report", str(small.folder), "--no-pictures", "-o", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["rows"], summary["rejected"], summary["pictured"], summary["measured"]) == (24, 3, [], 0)
    assert "<img" not in out.read_text()
    assert {"errors", "angles", "rows"} <= set(attributes(out, "section", "id"))
    again = tmp_path / "again.html"
    assert main(["report", str(small.folder), "--no-pictures", "-o", str(again), "-q"]) == 0
    assert again.read_text() == out.read_text()


@pytest.mark.usefixtures("small_pictures")
def test_without_the_viewers_library_the_page_says_so(small, tmp_path, capsys, monkeypatch):
    """Another trimesh may hold it elsewhere: pictures are there all the same."""
    monkeypatch.setattr("hmr_skel.report.viewer._TEMPLATE", "templates/none.zip")
    out = tmp_path / "report.html"
    assert main(["report", str(small.folder), "--manifest", str(small.manifest), "-o", str(out)]) == 0
    assert "warning: The page has no 3D viewer: the installed trimesh" in capsys.readouterr().out
    assert "The page has no 3D viewer" in words(out)
    assert "viewer-data" not in out.read_text()
    assert len(attributes(out, "img", "src")) > 15


def test_other_models_than_the_dataset_was_made_with_are_noticed(
    small, small_pictures, tmp_path, open_body_dir, capsys
):
    folder = tmp_path / "models"
    shutil.copytree(open_body_dir, folder, copy_function=lambda a, b: Path(b).symlink_to(a))
    (folder / "skel_male.pkl").unlink()
    (folder / "skel_male.pkl").symlink_to(open_body_dir / "skel_female.pkl")
    manifest = write_manifest(tmp_path, folder)
    out = tmp_path / "report.html"
    assert main(["report", str(small.folder), "--manifest", str(manifest), "-o", str(out)]) == 0
    assert re.search(r"warning: .*it was made with other models", capsys.readouterr().out)
    assert "it was made with other models" in words(out)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("{tmp}/nowhere", "no dataset in .*nowhere.*make dataset"),
        ("{set}", r"made by .small., and manifests/small.toml is not there"),
        ("{set} --manifest manifests/open.toml", "is the manifest 'open', but .* made by 'small'"),
        ("{set} --manifest {tmp}/small.toml", "no body model .*skel_male.pkl"),
        ("{set} --no-pictures -o {tmp}", "is a folder. Expected a file"),
    ],
)
def test_what_can_be_wrong(small, tmp_path, capsys, arguments, text):
    write_manifest(tmp_path, tmp_path)
    assert main(["report", *arguments.format(tmp=tmp_path, set=small.folder).split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(text, error), error


def test_an_unfinished_dataset_says_so(small, tmp_path):
    shutil.copytree(small.folder, tmp_path / "set")
    for file in (tmp_path / "set").rglob("*-00001-*"):
        file.unlink()
    assert main(["report", str(tmp_path / "set"), "--no-pictures", "-q"]) == 0
    assert "The dataset is not finished: 1 of 2 shards are there." in words(tmp_path / "set" / "report.html")
