"""A small dataset with images for the tests of samples: Parquet shards as a build writes them, JPEGs, image rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from hmr_skel.data.images import ImageRule
from hmr_skel.data.schema import SCHEMA_VERSION, shard_table, write_shard
from hmr_skel.data.shards import Piece, Shard, fingerprint_of
from hmr_skel.data.storage import Place
from hmr_skel.rows import AnnotationRows, Reject

WIDTH, HEIGHT = 400, 300
ROWS_PER_SHARD = 12
SOURCES = {"near": 20, "far": 16}  # rows; "far" has no camera, and no 2D keypoints in every fourth row


@dataclass(frozen=True)
class SampleSet:
    """Where it is."""

    path: Path
    images: dict[str, ImageRule]


def fake_fit(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What a fitter would return for so many rows."""
    rng = np.random.default_rng(seed)
    floats = {"skel_q": (46,), "skel_betas": (10,), "skel_transl": (3,)} | dict.fromkeys(
        ("v2v_mm", "v2v_max_mm", "joint_mm", "max_limit_violation_deg", "push", "beyond_deg"), ()
    )
    fit = {name: rng.random((rows, *shape)).astype(np.float32) for name, shape in floats.items()}
    return {
        **fit,
        "skel_gender": np.full(rows, "male", object),
        "push_dof": np.where(np.arange(rows) % 2, "knee_angle_r", None),
        "iterations": np.full(rows, 12, np.int32),
        "starts": np.full(rows, 1, np.int32),
        "status": np.full(rows, "converged", object),
    }


MADE_FROM = {"fit_version": 1, "schema_version": SCHEMA_VERSION}
"""The least that a shard is made from."""


def write_files(
    out: Place, shard: Shard, table: pa.Table, rejects: Sequence[Reject] = (), made_from: Mapping | None = None, **info
) -> str:
    """A shard's three files; returns its fingerprint."""
    made_from = MADE_FROM if made_from is None else made_from
    write_shard(out, shard, table, rejects, made_from, {"read": 1.0}, {"manifest_name": "test"} | info)
    return fingerprint_of(made_from)


def write_sample_set(
    folder: Path, genders: tuple[str, str] = ("male", "male"), held_out: int = 1, with_images: bool = True
) -> SampleSet:
    """36 rows of two sources in 3 shards, the last `held_out` for evaluation. The rows' own 3D keypoints, projected,
    are their 2D keypoints."""
    tables = [_source_table(name, gender) for name, gender in zip(SOURCES, genders, strict=True)]
    table = pa.concat_tables(tables)
    count = -(-table.num_rows // ROWS_PER_SHARD)
    for index in range(count):
        part = table.slice(index * ROWS_PER_SHARD, ROWS_PER_SHARD)
        shard = Shard(index, count, (Piece("near", 0, part.num_rows),), held_out=index >= count - held_out)
        write_files(folder / "set", shard, part)
    if with_images:
        write_images(folder / "images")
    rules = {"near": ImageRule(folder / "images"), "far": ImageRule(folder / "images", (("^", "far-"), ("$", ".jpg")))}
    return SampleSet(folder / "set", rules)


def write_images(folder: Path) -> None:
    """A picture of smooth noise per row."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    names = [f"{i:03d}.jpg" for i in range(SOURCES["near"])] + [f"far-{i:03d}.jpg" for i in range(SOURCES["far"])]
    for name in names:
        noise = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))


def _source_table(name: str, gender: str) -> pa.Table:
    count = SOURCES[name]
    rng = np.random.default_rng(len(name))
    points = rng.normal((0, 0, 5), (0.4, 0.4, 0.3), (count, 44, 3))
    cam_int = np.array([[500, 0, 190], [0, 520, 160], [0, 0, 1]], float)  # not centred
    pixels = points @ cam_int.T
    pixels = pixels[..., :2] / pixels[..., 2:]
    confidence = np.where(rng.random((count, 44, 1)) < 0.1, 0, rng.uniform(0.2, 1, (count, 44, 1)))
    keypoints_2d = np.concatenate((pixels, confidence), -1)
    keypoints_2d[confidence[..., 0] == 0] = np.nan, np.nan, 0
    if name == "far":
        keypoints_2d[::4] = np.nan
    skel = {
        "skel_q": rng.normal(0, 0.3, (count, 46)),
        "skel_betas": np.arange(count)[:, None] * np.linspace(-0.2, 0.2, 10),
        "skel_transl": rng.normal((0, 0, 5), 0.1, (count, 3)),
    }
    columns = {
        "center": pixels.mean(1),
        "scale": np.ptp(pixels, axis=1) / 200,
        "keypoints_2d": keypoints_2d,
        "keypoints_3d": np.concatenate((points, np.ones_like(confidence)), -1),
        **({"cam_int": np.tile(cam_int, (count, 1, 1))} if name == "near" else {}),
    }
    texts = {"imgname": np.array([f"{i:03d}" + (".jpg" if name == "near" else "") for i in range(count)], object)}
    fit = None
    if name == "near":  # fitted; "far" came as SKEL
        fit = fake_fit(count) | {key: value.astype(np.float32) for key, value in skel.items()}
        fit |= {"v2v_mm": np.linspace(2, 40, count, dtype=np.float32), "skel_gender": np.full(count, gender, object)}
        fit["status"][::5] = "max_iterations"
        skel = {"smpl_pose": np.zeros((count, 72)), "smpl_betas": np.zeros((count, 10))}
        skel |= {"smpl_transl": np.zeros((count, 3))}
        texts["smpl_gender"] = np.full(count, "neutral", object)
    else:
        texts["skel_gender"] = np.full(count, gender, object)
    floats = {key: value.astype(np.float32) for key, value in (columns | skel).items()}
    return shard_table(AnnotationRows(source=name, source_row=np.arange(count), **texts, **floats), fit)
