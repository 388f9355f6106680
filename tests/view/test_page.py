"""The live page, looked at by a browser."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from hmr_skel.body.dofs import limits
from hmr_skel.convert.fit import Bodies
from hmr_skel.data.load import load_shards
from hmr_skel.view.tracks import Poser, find_tracks, held_dofs
from tests.built_dataset import BuiltDataset
from tests.report.browser import browse, find_chromium

if TYPE_CHECKING:
    from hmr_skel.view.page import Viewer

pytestmark = pytest.mark.extra  # viser is installed by `make test-all`


@pytest.fixture
def viewer(built_dataset: BuiltDataset) -> Iterator["Viewer"]:
    from hmr_skel.view.page import Viewer

    table = load_shards(built_dataset.data)
    bodies = Bodies(built_dataset.data / "body_models")
    shown = Viewer(find_tracks(table), Poser(table, bodies), lambda row: np.zeros((8, 8, 3), np.uint8), 8080)
    yield shown
    shown.server.stop()


def test_controls_change_what_is_shown(viewer: "Viewer"):
    meshes = viewer._meshes
    assert [mesh.visible for mesh in meshes.values()] == [True] * 3
    before = meshes["skin"].vertices.copy()
    viewer.place.value = 7
    assert abs(meshes["skin"].vertices - before).max() > 0.01
    assert "mm" in viewer.facts.content
    viewer.bones.value = False
    assert not meshes["bones"].visible
    assert meshes["skin"].position[0] - meshes["annotation"].position[0] == pytest.approx(viewer.spacing)
    viewer.heat.value = True
    shown = [mesh for mesh in viewer._bands if mesh.visible]
    assert not meshes["skin"].visible
    assert sum(len(mesh.faces) for mesh in shown) == len(meshes["skin"].faces)


def test_dots_in_the_curves_are_where_a_dof_is_at_a_limit(viewer: "Viewer"):
    q, rows = viewer.poser.table["skel_q"], viewer.track.rows
    q[rows[2:4], 3:10] = limits("anatomical")[3:10].T
    viewer.poser.table = np.array([(row,) for row in q], [("skel_q", np.float32, 46)])
    viewer._draw_curves()
    curves, dots = (np.stack(viewer._curves.data[first::2]) for first in (1, 2))
    held = np.array([[k in dict(held_dofs(row)) for k in range(3, 10)] for row in q[rows]]).T
    assert held[:, 2:4].all()
    np.testing.assert_array_equal(dots, np.where(held, curves, np.nan))


@pytest.mark.parametrize("rate", [None, 60.0])
def test_the_picture_is_that_of_the_row_also_after_a_pause(viewer: "Viewer", rate: float | None):
    seen = []
    viewer.picture = lambda row: seen.append(row["row_id"]) or "none"
    viewer.track = replace(viewer.track, rate=rate)
    viewer.playing.value = True
    for place in range(2, 8):
        viewer.place.value = place
    assert rate or len(seen) >= 6
    viewer.playing.value = False
    assert seen[-1] == viewer.poser.table[int(viewer.track.rows[7])]["row_id"]


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium here (apt-get install chromium)")
def test_it_loads_and_plays_without_an_error(viewer: "Viewer", tmp_path):
    program = find_chromium()
    assert program is not None
    done = threading.Event()
    playing = threading.Thread(target=viewer.play, args=(done.is_set,))
    try:
        with browse(program, tmp_path) as tab:
            playing.start()
            tab.resize(1400, 900)
            tab.call("Page.navigate", url=viewer.url)
            tab.wait("document.body !== null && document.body.innerText.includes('side by side')")
            tab.wait("document.querySelector('canvas') !== null")
            before = viewer.sent
            tab.evaluate("[...document.querySelectorAll('label')].find(l => l.innerText === 'play').click()")
            tab.wait("document.body.innerText.includes('v2v')")
            end = time.monotonic() + 120
            while viewer.sent < before + 5:
                assert time.monotonic() < end
                tab.evaluate("new Promise(requestAnimationFrame)")
            assert viewer.playing.value
            # What three.js says of viser's own use of it is none of ours.
            assert [error for error in tab.errors if "deprecated" not in error] == []
    finally:
        done.set()
        if playing.is_alive():
            playing.join()


def test_texts_of_a_file_are_no_html(viewer: "Viewer"):
    from hmr_skel.view.page import facts

    row = viewer.poser(0).row | {"row_id": "<iframe srcdoc='x'>![](http://a)"}
    assert "<" not in facts(row).replace("\\<", "")
    assert "](" not in facts(row)
