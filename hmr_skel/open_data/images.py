"""Render images of the default dataset: each row's SMPL mesh with clothes, light and a background, as a JPEG.

An image depends only on its row (looks depend on the betas, so that a person looks the same in a clip). So a dataset
can be rendered in parts, by any number of processes: only missing files are made.
"""

import multiprocessing
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from hmr_skel.body.smpl import Smpl
from hmr_skel.data.atomic import replacing
from hmr_skel.data.images import below
from hmr_skel.data.npz import LabelFile
from hmr_skel.errors import UserError
from hmr_skel.open_data.appearance import Wardrobe, person_colors, random_background, random_light
from hmr_skel.render import render_mesh

_ROWS_PER_TASK = 16
_JPEG_QUALITY = 90
_KEYS = ("imgname", "pose_cam", "shape", "trans_cam", "cam_int")


def make_images(
    labels_path: str | Path,
    image_root: str | Path,
    body_models: str | Path,
    workers: int = 2,
    progress: Callable[[int], object] = lambda rows: None,
) -> int:
    """Render the missing images, and return their number.

    Args:
        labels_path: a label file of `make_labels`; its `cam_int` gives each image's size (principal point = middle).
        image_root: the folder that `imgname` is relative to; images appear by rename.
        body_models: folder with SMPL_NEUTRAL.pkl.
        workers: processes; 1 renders in this one.
        progress: called with the number of rows done (rendered or found).

    Raises:
        UserError: the label file or the model is missing or damaged.
    """
    labels = read_labels(labels_path)
    root = Path(image_root)
    missing = np.flatnonzero([not below(root, str(name)).exists() for name in labels["imgname"]])
    done = len(labels["imgname"]) - len(missing)
    progress(done)
    tasks = [missing[i : i + _ROWS_PER_TASK] for i in range(0, len(missing), _ROWS_PER_TASK)]
    for count in _run(tasks, labels, root, Path(body_models) / "SMPL_NEUTRAL.pkl", workers):
        done += count
        progress(done)
    return len(missing)


def render_rows(labels: dict[str, np.ndarray], smpl: Smpl, wardrobe: Wardrobe) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The RGB images of a few rows, in memory."""
    pose = torch.from_numpy(np.ascontiguousarray(labels["pose_cam"], np.float32)).reshape(-1, 24, 3)
    betas, transl = (torch.from_numpy(np.ascontiguousarray(labels[k], np.float32)) for k in ("shape", "trans_cam"))
    with torch.no_grad():
        vertices = smpl(pose[:, 0], pose[:, 1:], betas, transl).vertices.numpy()
    return [
        _picture(vertices[i], smpl.faces, labels["cam_int"][i], wardrobe, person=_number(labels["shape"][i]),
                 scene=_number(labels["pose_cam"][i]))
        for i in range(len(vertices))
    ]  # fmt: skip


def read_labels(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a label file that images need."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such label file; the first fit makes the default one.")
    file = LabelFile(Path(path))
    if missing := [key for key in _KEYS if key not in file]:
        raise UserError(f"{path}: not a label file with {', '.join(_KEYS)}: it has no {missing[0]}.")
    return {key: file.array(key) for key in _KEYS}


def _picture(
    vertices: Float[np.ndarray, "V 3"], faces: np.ndarray, cam_int: Float[np.ndarray, "3 3"], wardrobe: Wardrobe,
    person: int, scene: int,
) -> UInt8[np.ndarray, "H W 3"]:  # fmt: skip
    width, height = (2 * cam_int[:2, 2]).round().astype(int).tolist()
    rng = np.random.default_rng(scene)
    colors = person_colors(np.random.default_rng(person), wardrobe)
    body = render_mesh(vertices, faces, cam_int, width, height, colors, random_light(rng))
    picture = body.over(random_background(rng, width, height))
    picture = cv2.GaussianBlur(picture, (3, 3), rng.uniform(0.4, 0.8))  # as by a lens; it also smooths the silhouette
    grain = rng.standard_normal((height, width), np.float32)[..., None]
    picture = picture + np.float32(rng.uniform(0.004, 0.02)) * grain
    return (picture * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _number(values: np.ndarray) -> int:
    """A seed from the bytes of a row's values."""
    return zlib.crc32(np.ascontiguousarray(values).tobytes())


def _run(tasks: list[np.ndarray], labels: dict[str, np.ndarray], root: Path, smpl_path: Path, workers: int):
    """Yield the number of rows of each finished task."""
    parts = ({key: labels[key][rows] for key in _KEYS} for rows in tasks)
    if workers <= 1 or len(tasks) <= 1:
        for part in parts:
            yield _render_files(part, root, smpl_path)
        return
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(min(workers, len(tasks)), context, _start_worker) as pool:
        yield from pool.map(_render_files, parts, repeat(root), repeat(smpl_path))  # closing it early cancels the rest


def _start_worker() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@cache
def _load(smpl_path: Path) -> tuple[Smpl, Wardrobe]:
    """Once per process."""
    smpl = Smpl.load(smpl_path)
    return smpl, Wardrobe.of(smpl)


def _render_files(labels: dict[str, np.ndarray], root: Path, smpl_path: Path) -> int:
    for name, picture in zip(labels["imgname"], render_rows(labels, *_load(smpl_path)), strict=True):
        path = below(root, str(name))
        written, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        assert written
        with replacing(path) as temporary:
            temporary.write_bytes(jpeg.tobytes())
    return len(labels["imgname"])
