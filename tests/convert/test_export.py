"""Datasets in other trainers' files, read back as those trainers read them."""

from pathlib import Path

import numpy as np
import pytest

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.cli import main
from hmr_skel.convert.export import export_dataset
from hmr_skel.data.annotations import open_source
from hmr_skel.data.parquet import write_rejects, write_shard
from hmr_skel.data.schema import shard_table
from hmr_skel.data.shards import Shard, Piece
from hmr_skel.errors import UserError
from hmr_skel.rows import AnnotationRows
from tests.data.conftest import fake_fit, label_arrays, make_source

ROWS = 7


def rows_of(source: str, seed: int = 0, **changes) -> AnnotationRows:
    arrays = label_arrays(ROWS, seed)
    columns = {
        "imgname": arrays["imgname"].astype(object),
        "center": arrays["center"],
        "scale": np.stack([arrays["scale"]] * 2, 1),
        "cam_int": arrays["cam_int"],
        "keypoints_2d": arrays["gtkps"],
        "keypoints_3d": np.random.default_rng(seed).normal(size=(ROWS, 44, 4)).astype(np.float32),
        "smpl_pose": arrays["pose_cam"],
        "smpl_betas": arrays["shape"],
        "smpl_transl": arrays["trans_cam"],
        "smpl_gender": np.full(ROWS, "neutral", object),
    }
    return AnnotationRows(source=source, source_row=np.arange(ROWS), **(columns | changes))
