"""Write the files of a run, picture by picture.

predictions.parquet, predictions.npz   all people, see `hmr_skel.predict.table`
overlays/<image>.jpg                   the photograph, and beside it the same with everybody drawn in
overlays/<video>.mp4                   likewise for every frame
meshes/<image>-<person>.glb or .obj    skin and skeleton, metres, y up
refinement/<image>-<person>.gif        from the coarse estimate to the final one
attention/<image>-<person>.png         where the decoder's tokens attend
"""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hmr_skel.body.skel import Skel
from hmr_skel.convert.meshes import body_meshes, write_parts
from hmr_skel.data.atomic import replacing
from hmr_skel.errors import UserError
from hmr_skel.model.network import Network
from hmr_skel.predict.frames import Frame
from hmr_skel.predict.people import Body, Person, Predictor
from hmr_skel.predict.pictures import (
    draw_attention,
    draw_overlay,
    draw_refinement,
    encode_animation,
    encode_picture,
    skel_params,
)
from hmr_skel.predict.table import TableWriter, npz_from_parquet, writing_table

TABLE = "predictions.parquet"
ARRAYS = "predictions.npz"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which files to write."""

    overlays: bool = True
    meshes: str | None = None
    """glb or obj."""
    refinement: bool = False
    attention: bool = False


@dataclass
class PredictionWriter:
    """Writes the files of a run, picture by picture."""

    folder: Path
    wanted: Wanted
    names: dict[Path, str]  # for each file, the name of what is written about it
    skel: Skel
    network: Network
    table: TableWriter
    videos: "_Videos"
    every: int

    def write(self, frame: Frame, people: Sequence[tuple[Person, Body]]) -> None:
        """Write everything about one picture."""
        name = self.names[frame.file]
        if self.wanted.overlays:
            picture = draw_overlay(frame, people, self.skel)
            if frame.number is None:
                _write(self.folder / "overlays" / f"{name}.jpg", encode_picture(picture, ".jpg"))
            else:
                self.videos.write(self.folder / "overlays" / f"{name}.mp4", frame, picture, self.every)
        for person, body in people:
            self.table.add(frame, person, body)
            where = name if frame.number is None else f"{name}-{frame.number:06d}"
            self._write_person(f"{where}-{person.number}", frame, person, body)

    def _write_person(self, name: str, frame: Frame, person: Person, body: Body) -> None:
        if self.wanted.meshes is not None:
            path = self.folder / "meshes" / f"{name}.{self.wanted.meshes}"
            write_parts(body_meshes(self.skel, skel_params(body)), "camera", path)
        if self.wanted.refinement:
            stages = draw_refinement(frame, person, body, self.skel, self.network.config.stage_names)
            _write(self.folder / "refinement" / f"{name}.gif", encode_animation(stages))
        if self.wanted.attention:
            assert body.attention is not None
            picture = draw_attention(person, body.attention)
            _write(self.folder / "attention" / f"{name}.png", encode_picture(picture, ".png"))


@contextmanager
def writing(
    folder: Path,
    wanted: Wanted,
    files: Sequence[Path],
    skel: Skel,
    predictor: Predictor,
    every: int,
    notes: Mapping[str, str],
) -> Generator[PredictionWriter]:
    """A writer whose tables and videos appear when the block ends, unless by an error.

    `notes` go into the table's metadata. Raises `UserError` where the folder cannot be written.
    """
    with _Videos() as videos:
        with writing_table(folder / TABLE, predictor.num_stages, predictor.skel_gender, notes) as table:
            yield PredictionWriter(folder, wanted, output_names(files), skel, predictor.network, table, videos, every)
        npz_from_parquet(folder / TABLE, folder / ARRAYS)


def output_names(files: Sequence[Path]) -> dict[Path, str]:
    """Paths below the common folder, without endings (`walk` for `a/walk.jpg`) unless two would be equal."""
    absolute = [Path(os.path.abspath(file)) for file in files]  # `..` would lead out of the folder
    shared = Path(os.path.commonpath([file.parent for file in absolute]))
    plain = [file.relative_to(shared).with_suffix("").as_posix() for file in absolute]
    return {
        file: short if plain.count(short) == 1 else full.relative_to(shared).as_posix()
        for file, full, short in zip(files, absolute, plain, strict=True)
    }


class _Videos:
    """Writes one video at a time, as the frames of a file are consecutive. It removes a video after an error."""

    def __init__(self) -> None:
        self._path, self._writer = Path(), None
        self._size, self._frames = (0, 0), 0

    def __enter__(self) -> "_Videos":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(broken=kind is not None)

    def write(self, path: Path, frame: Frame, picture: np.ndarray, every: int) -> None:
        """Add a frame. Raises `UserError` if the video cannot be written."""
        picture = picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]  # the codec needs even sides
        if self._writer is None or path != self._path:
            self._close()
            path.parent.mkdir(parents=True, exist_ok=True)
            assert frame.rate is not None
            self._path, self._size, self._frames = path, (picture.shape[1], picture.shape[0]), 0
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(self._partial), codec, frame.rate / every, self._size)
            if not writer.isOpened():
                raise self._error()
            self._writer = writer
        if picture.shape[1::-1] != self._size:  # OpenCV would skip the frame without an error
            picture = cv2.resize(picture, self._size)
        self._writer.write(np.ascontiguousarray(picture[..., ::-1]))
        self._frames += 1

    @property
    def _partial(self) -> Path:
        return self._path.with_name(f".{self._path.name}.partial{self._path.suffix}")  # the ending decides the codec

    def _error(self) -> UserError:
        return UserError(f"cannot write the video {self._path}. Choose an output folder that is writable and has room.")

    def _close(self, broken: bool = False) -> None:
        """Rename the video if the file has all frames, since OpenCV does not report a full disk."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        if broken or _count_frames(self._partial) != self._frames:
            self._partial.unlink(missing_ok=True)
            if not broken:
                raise self._error()
        else:
            os.replace(self._partial, self._path)


def _count_frames(video: Path) -> int:
    """The number of frames in the file's header, which is written last; 0 without a header."""
    capture = cv2.VideoCapture(str(video))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()


def _write(path: Path, data: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(data)
