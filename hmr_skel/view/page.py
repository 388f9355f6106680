"""The live page: a viser server that only this machine can reach, the controls, and what they do."""

import contextlib
import io
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import viser
from jaxtyping import Float, UInt8
from viser import uplot

from hmr_skel.body.dofs import DOF_NAMES, limits
from hmr_skel.body.skel import Skel
from hmr_skel.errors import UserError
from hmr_skel.render import ANNOTATION, BONE, SKIN, heat_colors
from hmr_skel.report.bodies import PosedRow
from hmr_skel.report.viewer import thin_bones
from hmr_skel.view.tracks import Poser, Track, at_limit, held_dofs

HOST = "127.0.0.1"
APART_M, GAP_M = 1.1, 0.1
"""The least distance of the centres of neighbouring bodies, and the least gap between their hands, m."""
STILL_RATE = 4.0
"""Rows per second for rows that are no frames of a clip."""
HEAT_MM, BANDS = 30.0, 8
"""The error that has the last colour, mm, and the number of colours."""
CURVE_ROWS = 150
"""The curves show this many rows before the current row, and as many after it."""
CURVES_EVERY_S = 0.2
MOST_LATE_S = 0.2
"""After a delay the next frames follow faster, to make up for at most this much of it, s."""
MOST_BONES = 6000  # vertices
GROUPS = {
    "right leg": slice(3, 10),
    "left leg": slice(10, 17),
    "trunk and head": slice(17, 26),
    "right arm": slice(26, 36),
    "left arm": slice(36, 46),
}
_CAMERA = {"+y": (0.0, 0.3, 2.4), "-y": (0.0, -0.3, -2.4), "+z": (0.0, -2.4, 0.3)}  # camera position, m
_ASIDE = np.array([0.8, 0.0, 0.0])  # the point that the camera looks at, m: the controls hide the right of the page
_COLORS = ("#3266ad", "#c93a2c", "#3d8a57", "#b8860b", "#7a4fa3", "#14808a", "#d1477e", "#666666", "#a0522d", "#222222")

Picture = Callable[[Mapping[str, Any]], UInt8[np.ndarray, "H W 3"] | str]
"""Returns the image of a row, RGB, or a text that says why there is none."""


class Viewer:
    """A page that plays tracks. `url` is its address."""

    def __init__(self, tracks: list[Track], poser: Poser, picture: Picture, port: int) -> None:
        """Start the server; it listens on this machine only, at the first free port from `port` on."""
        self.tracks, self.poser, self.picture = tracks, poser, picture
        with contextlib.redirect_stdout(io.StringIO()):  # viser prints a banner
            self.server = viser.ViserServer(host=HOST, port=port, label="hmr-skel", verbose=False)
        self.url = f"http://{HOST}:{self.server.get_port()}"
        # Callbacks come in threads of their own where a person clicks, and at once where this class sets a value.
        self._changed = threading.RLock()
        self._opening = False
        self._curves: Any = None
        self._image: Any = None
        self._drawn_curves = 0.0
        self.sent = 0
        """Frames sent so far."""
        self._controls()
        self._open(tracks[0])

    def play(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Play until `ended` says so, at each track's own rate while the page's button is on."""
        due = time.monotonic()
        while not ended():
            rate = (self.track.rate or STILL_RATE) * self.speed.value
            due = max(due + 1 / rate, time.monotonic() - MOST_LATE_S)
            time.sleep(max(due - time.monotonic(), 0))
            if self.playing.value:
                self.place.value = (self.place.value + 1) % len(self.track.rows)  # its callback draws

    def _controls(self) -> None:
        gui = self.server.gui
        gui.configure_theme(control_width="large", show_logo=False, show_share_button=False)
        self.choice = gui.add_dropdown("track", [track.name for track in self.tracks])
        self.place = gui.add_slider("frame", 0, max(len(self.tracks[0].rows) - 1, 1), 1, 0)
        self.playing = gui.add_checkbox("play", False)
        self.speed = gui.add_slider("speed", 0.1, 2.0, 0.1, 1.0)
        self.annotation = gui.add_checkbox("annotated SMPL mesh", True)
        self.skin = gui.add_checkbox("SKEL's skin", True)
        self.bones = gui.add_checkbox("SKEL's bones", True)
        self.apart = gui.add_checkbox("side by side", True)
        self.stay = gui.add_checkbox("stay in place", True)
        self.heat = gui.add_checkbox(f"skin coloured by its error, 0 to {HEAT_MM:.0f} mm", False)
        self.facts = gui.add_markdown("")
        self.group = gui.add_dropdown("curves", list(GROUPS), initial_value="right leg")
        self.curves_at = gui.add_folder("angles, degrees")
        self.image_at = gui.add_folder("image")
        self.choice.on_update(lambda _: self._choose())
        for control in (
            self.place, self.playing, self.annotation, self.skin, self.bones, self.apart, self.stay, self.heat,
            self.group,
        ):  # fmt: skip
            control.on_update(lambda _: self._draw())

    def _choose(self) -> None:
        names = [track.name for track in self.tracks]
        try:
            self._open(self.tracks[names.index(self.choice.value)])
        except UserError as error:
            self.facts.content = f"**error:** {escaped(error)}"

    def _open(self, track: Track) -> None:
        """Show a track from its start."""
        with self._changed, self.server.atomic():
            self._opening = True
            self.track = track
            self.place.value, self.place.max = 0, max(len(track.rows) - 1, 1)
            self._opening = False
            self.server.scene.reset()
            self.server.scene.set_up_direction(track.up)
            shown = self.poser(int(track.rows[0]))
            self.spacing = max(APART_M, float(np.ptp(shown.skin[:, 0])) + GAP_M)
            self.server.initial_camera.position = (_CAMERA[track.up] + _ASIDE) * self.spacing / APART_M
            self.server.initial_camera.look_at = _ASIDE * self.spacing / APART_M
            skel: Skel = self.poser.bodies.skel(shown.row["skel_gender"])
            self._kept, bone_faces = thin_bones(skel, MOST_BONES)
            self._faces = skel.faces
            self._start = shown.skin.mean(0)
            add = self.server.scene.add_mesh_simple
            self._meshes = {
                "bones": add("/bones", shown.bones[self._kept], bone_faces, color=_rgb(BONE), side="double"),
                "skin": add("/skin", shown.skin, skel.faces, color=_rgb(SKIN)),
            }
            if shown.target is not None:
                faces = self.poser.bodies.smpl(shown.row["smpl_gender"]).faces
                self._meshes["annotation"] = add("/annotation", shown.target, faces, color=_rgb(ANNOTATION))
            colors = heat_colors((np.arange(BANDS) + 0.5) / BANDS, 1.0)
            self._bands = [
                add(f"/error/{k}", shown.skin[:3], np.array([[0, 1, 2]]), color=_rgb(color), visible=False)
                for k, color in enumerate(colors)
            ]
        self._draw()

    def _draw(self) -> None:
        """Send the row that the slider selects to the page."""
        with self._changed, self.server.atomic():
            if self._opening:
                return
            number = int(self.track.rows[min(int(self.place.value), len(self.track.rows) - 1)])
            shown = self.poser(number)
            centre = shown.skin.mean(0) if self.stay.value else self._start
            self._put(shown, centre)
            self.facts.content = facts(shown.row)
            flowing = self.playing.value and self.track.rate  # single rows have a picture each
            if time.monotonic() - self._drawn_curves > CURVES_EVERY_S or not flowing:
                self._drawn_curves = time.monotonic()
                self._draw_curves()
                self._draw_image(shown.row)
            self.sent += 1

    def _put(self, shown: PosedRow, centre: Float[np.ndarray, "3"]) -> None:
        has_annotation = shown.target is not None and "annotation" in self._meshes
        error_mm = shown.distances_mm if self.heat.value and self.skin.value else None
        wanted = {
            "annotation": self.annotation.value and has_annotation,
            "skin": self.skin.value and error_mm is None,
            "bones": self.bones.value,
        }
        seen = [name for name in wanted if wanted[name] or (name == "skin" and error_mm is not None)]
        vertices = {"skin": shown.skin, "bones": shown.bones[self._kept], "annotation": shown.target}
        places = {name: self._offset(seen.index(name), len(seen)) if name in seen else np.zeros(3) for name in wanted}
        for name, mesh in self._meshes.items():
            mesh.visible = wanted[name]
            if wanted[name]:
                mesh.vertices = (vertices[name] - centre).astype(np.float32)
                mesh.position = places[name]
        self._meshes["skin"].opacity = None if self.apart.value or not self.bones.value else 0.35
        if error_mm is not None:
            self._put_heat(shown.skin - centre, error_mm, places["skin"])
        else:
            for mesh in self._bands:
                mesh.visible = False

    def _put_heat(self, skin: np.ndarray, error_mm: np.ndarray, place: np.ndarray) -> None:
        """The skin as one mesh for each colour: a mesh of the page has one colour."""
        band = np.clip(error_mm[self._faces].mean(1) / HEAT_MM * BANDS, 0, BANDS - 1).astype(int)
        for k, mesh in enumerate(self._bands):
            faces = self._faces[band == k]
            mesh.visible = len(faces) > 0
            if len(faces):
                kept, numbers = np.unique(faces, return_inverse=True)
                mesh.vertices = skin[kept].astype(np.float32)
                mesh.faces = numbers.reshape(-1, 3).astype(np.uint32)
                mesh.position = place

    def _offset(self, index: int, count: int) -> Float[np.ndarray, "3"]:
        across = self.spacing * (index - (count - 1) / 2) if self.apart.value else 0.0
        return np.array([across, 0.0, 0.0])

    def _draw_curves(self) -> None:
        """Angles of the chosen part, degrees, around the row that is shown. Dots are where a dof stands at a limit."""
        at = int(self.place.value)
        first, last = max(at - CURVE_ROWS, 0), min(at + CURVE_ROWS + 1, len(self.track.rows))
        dofs = range(46)[GROUPS[self.group.value]]
        q, ranges = self.poser.table[self.track.rows[first:last]]["skel_q"][:, dofs], limits("anatomical")[dofs]
        dots = np.where(at_limit(q, ranges), q, np.nan)
        curves = np.degrees(np.stack((q, dots), 2).astype(float)).reshape(len(q), -1).T  # of each dof, and its dots
        ranges, lines = np.degrees(ranges), []
        for k, color, (low, high) in zip(dofs, _COLORS, ranges, strict=False):
            lines.append(uplot.Series(label=DOF_NAMES[k], stroke=color, width=2))
            points = uplot.Series_Points(show=True, size=9, fill=color)
            lines.append(uplot.Series(label=f"at {low:.0f} or {high:.0f}", stroke=color, width=0, points=points))
        data = (np.arange(first, last, dtype=float) - at, *curves)
        if self._curves is not None and self._curves_of == self.group.value:
            self._curves.data = data
            return
        if self._curves is not None:
            self._curves.remove()
        with self.curves_at:
            self._curves = self.server.gui.add_uplot(
                data, (uplot.Series(label="rows from the one shown"), *lines), aspect=1.2,
                scales={
                    "x": uplot.Scale(time=False, auto=True),
                    "y": uplot.Scale(auto=False, range=(float(ranges.min()) - 5, float(ranges.max()) + 5)),
                },
            )  # fmt: skip
        self._curves_of = self.group.value

    def _draw_image(self, row: Mapping[str, Any]) -> None:
        picture = self.picture(row)
        if isinstance(picture, str):
            self.image_at.visible = False
            return
        self.image_at.visible = True
        scale = 480 / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        if self._image is None:
            with self.image_at:
                self._image = self.server.gui.add_image(small)
        else:
            self._image.image = small


def escaped(text: object) -> str:
    """Escape a text from a file as Markdown. Otherwise the page would read HTML, links and pictures in it."""
    return re.sub(r"([^\w\s])", r"\\\1", " ".join(str(text).split()))


def facts(row: Mapping[str, Any]) -> str:
    """The facts about a row, as Markdown."""
    name = next((row[key] for key in ("row_id", "clip", "imgname") if row.get(key)), "row")
    lines = [f"**{escaped(name)}**"]
    if row.get("time_s") is not None:
        lines.append(f"{row['time_s']:.2f} s, frame {row['frame']}")
    if row.get("v2v_mm") is not None:
        lines.append(f"v2v {row['v2v_mm']:.1f} mm, {escaped(row.get('status') or '')}")
    held = held_dofs(np.asarray(row["skel_q"]))
    if held:
        lines.append("at its limit: " + ", ".join(f"{DOF_NAMES[k]} {np.degrees(limit):.0f}°" for k, limit in held))
    return "  \n".join(lines)


def _rgb(color: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (round(255 * float(value)) for value in color)
    return red, green, blue
