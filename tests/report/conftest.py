"""A small dataset to report on: two fitted sources and one given as SKEL, real bodies, rejects, an image."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch

from flows.shard import Builder
from hmr_skel.bench.measures import Judge
from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.body.skel import Skel
from hmr_skel.body.smpl import Smpl
from hmr_skel.data.schema import shard_table, write_shard
from hmr_skel.data.shards import Piece, Shard
from hmr_skel.rows import AnnotationRows, Reject, SkelParams
from tests.data.conftest import label_arrays

HARMFUL = "</script><b>"
"""Part of names of images and of a source: a page must not be run by what a dataset is called."""
HARMFUL_SOURCE = f"in{HARMFUL}"
SOURCES = {"street": 14, HARMFUL_SOURCE: 6, "given": 4}
REJECTS = (
    Reject("street", 14, "14.jpg", "betas", "|smpl_betas[0]| is 40; expected 10 at most"),
    Reject("street", 15, "15.jpg", "betas", "|smpl_betas[1]| is 50; expected 10 at most"),
    Reject("lost", 0, "0.jpg", "box", "box of 0 x 0 px; expected 1 px or more"),
)
HINGES = [DOF_NAMES.index(name) for name in ("knee_angle_r", "knee_angle_l", "elbow_flexion_r", "elbow_flexion_l")]
MANIFEST = """
name = "small"
description = "People of a test <i>"
skel_gender = "male"
rows_per_shard = 16
recipe = "{recipe}"

[body_models]
kind = "files"
path = "{body_models}"

[[sources]]
name = "street"
format = "camerahmr"
file = "{labels}"
image_root = "{images}"
"""


@pytest.fixture(scope="package", autouse=True)
def _bodies_once(bodies_once):
    """Every page and picture needs the same."""


@pytest.fixture
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is another part of the page that is looked at."""
    monkeypatch.setattr("hmr_skel.report.pictures.WIDTH", 120)
    monkeypatch.setattr("hmr_skel.report.pictures.HEIGHT", 150)


@dataclass(frozen=True)
class Small:
    """Where it is, and what is true of it."""

    folder: Path
    manifest: Path
    table: pa.Table
    distances_mm: np.ndarray  # [20 6890] of the fitted rows, by `hmr_skel.bench.measures`


@pytest.fixture(scope="session")
def small(open_body_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Two shards of 16 and 8 kept rows. Read only."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "2.jpg"), np.full((300, 400, 3), 90, np.uint8))
    manifest = write_manifest(folder, open_body_dir)
    judge = (Smpl.load(open_body_dir / "SMPL_NEUTRAL.pkl"), Skel.load(open_body_dir / "skel_male.pkl"))
    tables, distances = zip(*(source_table(name, count, *judge) for name, count in SOURCES.items()), strict=True)
    table = pa.concat_tables(tables)
    write_dataset(folder / "set", manifest, table, REJECTS)
    return Small(folder / "set", manifest, table, np.concatenate(distances[:2]))


def write_manifest(folder: Path, body_models: Path, images: Path | None = None, recipe: str = "default") -> Path:
    """The manifest that the small dataset is written by, with a label file that nothing is read from."""
    np.savez(folder / "labels.npz", **label_arrays(1))
    path = folder / "small.toml"
    images = folder / "images" if images is None else images
    path.write_text(
        MANIFEST.format(recipe=recipe, body_models=body_models, labels=folder / "labels.npz", images=images)
    )
    return path


def write_dataset(
    folder: Path,
    manifest: Path,
    table: pa.Table,
    rejects: tuple[Reject, ...] = (),
    size: int = 16,
    only: int | None = None,
) -> None:
    """A table as shards that are complete, or `only` one of them, written as a build writes them; all rejects belong to
    the first."""
    builder = Builder.open(manifest, folder, "cpu", quiet=True)
    count = max(-(-table.num_rows // size), 1)
    for index in range(count) if only is None else [only]:
        part, lost = table.slice(index * size, size), list(rejects) if index == 0 else []
        pieces = (Piece("street", index * 100, index * 100 + part.num_rows + len(lost)),)
        shard = Shard(index, count, pieces, held_out=index > 0)
        seconds = {"read": 0.5, "check": 0.1, "fit": 1.0, "load": 0.4}
        info = {"manifest_name": builder.manifest.name, "device": "cpu", "batch": 512}
        write_shard(builder.out, shard, part, lost, builder.ingredients(shard), seconds, info)


def source_table(name: str, count: int, smpl: Smpl, skel: Skel) -> tuple[pa.Table, np.ndarray]:
    """Rows whose SKEL is near their SMPL: the same small pose of the trunk, give or take; and their true distances."""
    rng = np.random.default_rng(len(name))

    def normal(scale: float, *shape: int) -> np.ndarray:
        return rng.normal(0, scale, (count, *shape)).astype(np.float32)

    pose, q, betas = normal(0.01, 72), normal(0.02, 46), normal(0.3, 10)
    pose[:, :3] = (np.pi, 0, 0)  # upright in a camera's frame
    q[:, :3] = (np.pi, 0, 0)  # likewise
    q[:, HINGES], q[0, HINGES[0]] = 0.1, np.deg2rad(160)  # a knee at its limit
    transl = normal(0.01, 3) + np.array([0, 0, 4], np.float32)
    skel_transl = transl + np.array([0, -0.02, 0], np.float32)
    columns = {
        "imgname": np.array([f"{i}.jpg" if i else f"{HARMFUL}.jpg" for i in range(count)], object),
        "center": np.full((count, 2), (200, 150), np.float32),
        "scale": np.full((count, 2), 1.4, np.float32),
        "cam_int": np.tile(np.array([[500, 0, 199.5], [0, 500, 149.5], [0, 0, 1]], np.float32), (count, 1, 1)),
    }
    if name == "given":
        q[3, HINGES[0]] = -0.2  # a knee bent forwards: a label may be wrong
        given = {"skel_q": q, "skel_betas": betas, "skel_gender": np.full(count, "male", object)}
        rows = AnnotationRows(source=name, source_row=np.arange(count), **(columns | {"cam_int": None}), **given)
        return shard_table(rows, None), np.zeros((0, 6890))
    smpl_columns = {"smpl_pose": pose, "smpl_betas": betas, "smpl_transl": transl}
    smpl_columns["smpl_gender"] = np.full(count, "neutral", object)
    rows = AnnotationRows(source=name, source_row=np.arange(count), **columns, **smpl_columns)
    params = SkelParams(*(torch.from_numpy(array) for array in (q, betas, skel_transl)))
    distances = Judge(rows.smpl_params(), smpl, skel).distances_mm(params).numpy()
    fit = {
        "skel_q": q,
        "skel_betas": betas,
        "skel_transl": skel_transl,
        "skel_gender": np.full(count, "male", object),
        "v2v_mm": distances.mean(1).astype(np.float32),
        "v2v_max_mm": distances.max(1).astype(np.float32),
        "joint_mm": np.full(count, 3, np.float32),
        "max_limit_violation_deg": np.where(np.arange(count) == 1, 2, 0).astype(np.float32),
        "push": np.full(count, 7, np.float32),
        "push_dof": np.full(count, "knee_angle_r", object),
        "beyond_deg": np.zeros(count, np.float32),
        "iterations": np.full(count, 9, np.int32),
        "starts": np.ones(count, np.int32),
        "status": np.where(np.arange(count) % 3 == 0, "at_limit", "converged").astype(object),
    }
    return shard_table(rows, fit), distances
