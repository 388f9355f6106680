"""Predict from files to files with a few pictures in memory at a time: read, find people, predict, write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from hmr_skel.data.images import UnreadableImage
from hmr_skel.errors import UserError
from hmr_skel.predict.boxes import Boxes
from hmr_skel.predict.cameras import Cameras, camera_of
from hmr_skel.predict.frames import Frame, Skipped, read_frames
from hmr_skel.predict.output import PredictionWriter
from hmr_skel.predict.people import Body, Person, Predictor, cut_out, predict


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to read, and how much at once."""

    batch_size: int = 16
    """The most people per batch, and the most pictures in memory."""
    every: int = 1
    """Read every n-th frame of a video."""
    box_cameras: bool = True
    """Use the cameras that come with boxes."""
    smooth: bool = True
    """Smooth crops before shrinking them; the published code does not."""
    as_stored: bool = False
    """Ignore the orientation tags of photographs."""


@dataclass
class Counts:
    """The numbers of pictures and people in a run, and its times."""

    images: int = 0
    people: int = 0
    skipped: int = 0
    """The number of skipped files."""
    skipped_boxes: int = 0
    """The number of skipped boxes in pictures that could be read."""
    without_people: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("look", "network", "write"), 0.0))

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


def run(
    files: Sequence[Path],
    predictor: Predictor,
    boxes: Boxes,
    cameras: Cameras | None,
    output: PredictionWriter,
    settings: Settings,
    skipped: Skipped,
    progress: Callable[[int], object],
    counts: Counts,
) -> None:
    """Predict everybody in every picture.

    Args:
        files: images and videos.
        predictor, boxes: the network, and the source of boxes.
        cameras: for all people, or those whose box has no camera; None if all boxes have one.
        output, settings: what is written, and how.
        skipped: called for each skipped file or box; the run continues.
        progress: called with the number of pictures done.
        counts: updated during the run, so that they are right after an interrupt too.

    Raises `UserError` if the detector or the camera fails (earlier pictures are written), or files cannot be written.
    """
    last = perf_counter()

    def lap(name: str) -> None:
        """Add the time since the last lap to `name`."""
        nonlocal last
        now = perf_counter()
        counts.seconds[name] += now - last
        last = now

    def skip(name: str, reason: str) -> None:
        counts.skipped += 1
        skipped(name, reason)

    def people_of(frame: Frame) -> list[Person]:
        people, shared = [], None
        for number, box in enumerate(boxes.of(frame)):
            cam_int = camera_of(frame, box) if settings.box_cameras else None
            if cam_int is None:
                assert cameras is not None  # the caller guarantees it
                cam_int = shared = cameras.of(frame) if shared is None else shared
            try:
                people.append(cut_out(frame, number, box, cam_int, settings.smooth))
            except UnreadableImage as error:
                counts.skipped_boxes += 1
                skipped(f"{frame.name}, person {number}", str(error))
        return people

    def finish() -> None:
        """Predict and write the waiting pictures, and forget them."""
        lap("look")
        everybody = [person for _, people in waiting for person in people]
        bodies: list[Body] = []
        for start in range(0, len(everybody), settings.batch_size):
            batch = everybody[start : start + settings.batch_size]
            bodies += predict(predictor, batch, attention=output.wanted.attention)
        lap("network")
        found = iter(bodies)
        for frame, people in waiting:
            output.write(frame, [(person, next(found)) for person in people])
            counts.images += 1
            counts.people += len(people)
            counts.without_people += not people
        lap("write")
        progress(len(waiting))
        waiting.clear()

    waiting: list[tuple[Frame, list[Person]]] = []
    for frame in read_frames(files, skip, every=settings.every, as_stored=settings.as_stored):
        try:
            waiting.append((frame, people_of(frame)))
        except UserError:  # if the detector fails, keep the pictures before this one
            finish()
            raise
        if max(len(waiting), sum(len(people) for _, people in waiting)) >= settings.batch_size:
            finish()
    finish()
