"""A dataset of ours in the files that other trainers read: SKEL-CF's `*-release-skel.npz`, and HSMR's fields.

One uncompressed .npz per source. Columns are streamed shard by shard, so that three million rows need no memory.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.body.dofs import MIRROR, MIRROR_SIGN
from hmr_skel.data.atomic import replacing
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.errors import UserError

FORMATS = ("skel-cf", "hsmr")
SKEL_CF, HSMR = FORMATS

Values = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class _Key:
    """A key of the written file: the columns it is made of and how. `shape` and `dtype` are one row's."""

    columns: tuple[str, ...]
    values: Values
    shape: tuple[int, ...]
    dtype: str = "<f4"
    required: bool = True
    """Whether the file is of no use without: rows that lack it are an error. Other keys are left out."""
    sparse: bool = False
    """Whether `values` can stand for rows that lack it, as long as some have it."""


def _same(column: str, *shape: int, required: bool = True) -> _Key:
    return _Key((column,), lambda rows: rows[column].reshape(-1, *shape), shape, required=required)


def _keypoints(column: str, *shape: int, required: bool = True) -> _Key:
    """Keypoints that are not annotated get coordinates and confidence 0: trainers multiply, and 0 * NaN is NaN."""

    def values(rows: Mapping[str, np.ndarray]) -> np.ndarray:
        points = rows[column].reshape(-1, *shape)
        there = np.isfinite(points).all(-1, keepdims=True)
        return np.where(there, points, np.float32(0))

    return _Key((column,), values, shape, required=required, sparse=True)


def _mirrored(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The dofs of the mirrored posture."""
    return rows["skel_q"][:, MIRROR] * np.asarray(MIRROR_SIGN, np.float32)


_BOX = {"center": _same("center", 2), "scale": _same("scale", 2)}
_KEYS: Mapping[str, Mapping[str, _Key]] = {
    SKEL_CF: {
        **_BOX,
        "cam_int": _same("cam_int", 3, 3),
        "gtkps": _keypoints("keypoints_2d", 44, 3),
        "keypoints3d": _keypoints("keypoints_3d", 44, 4),
        "skel_poses": _same("skel_q", 46),
        "skel_betas": _same("skel_betas", 10),
        "skel_trans": _same("skel_transl", 3, required=False),
        # SMPL twice, under the names of CameraHMR's labels and under those that the published fitter gives it.
        **{
            key: _same(column, width, required=False)
            for column, width, keys in (
                ("smpl_pose", 72, ("pose_cam", "poses")),
                ("smpl_betas", 10, ("shape", "betas")),
                ("smpl_transl", 3, ("trans_cam", "trans")),
            )
            for key in keys
        },
    },
    HSMR: {
        **_BOX,
        "keypoints_2d": _keypoints("keypoints_2d", 44, 3, required=False),
        "keypoints_3d": _keypoints("keypoints_3d", 44, 4, required=False),
        "orig_poses": _same("skel_q", 46),
        "orig_betas": _same("skel_betas", 10),
        "orig_has_poses": _Key((), lambda rows: np.ones(len(rows["center"]), np.float32), ()),
        "orig_has_betas": _Key((), lambda rows: np.ones(len(rows["center"]), np.float32), ()),
        "orig_pve_max": _Key(("v2v_max_mm",), lambda rows: rows["v2v_max_mm"] / np.float32(1000), (), required=False),
        "flip_poses": _Key(("skel_q",), _mirrored, (46,)),
        "flip_betas": _same("skel_betas", 10),
    },
}


def export_dataset(
    dataset: Path,
    out: Path,
    format: str,
    gender: str = "male",
    split: str | None = "train",
    progress: Callable[[int], object] | None = None,
) -> dict[Path, int]:
    """Write a dataset's rows as `out/<source>-release-skel.npz`, one file per source.

    Args:
        dataset: the folder.
        out: the folder for the files.
        format: `skel-cf`: the keys that the published SKEL-CF trainer reads, with the SMPL labels beside them. `hsmr`:
            the fields of HSMR's training records, as arrays; the mirrored pose is that of the mirrored skeleton.
        gender: the SKEL body that the files are for; neither format says which, so that rows of the other are refused.
        split: train, test (held-out shards), or None for both.
        progress: called with rows just written.

    Returns:
        The files, with their rows.

    Raises:
        UserError: rows are of the other gender or lack what the format needs; the text says which.
    """
    shards = load_shards(dataset, split=split)
    source, genders = shards["source"], shards["skel_gender"]
    others = sorted({str(name) for name in genders} - {gender})
    if others:
        count = int((genders != gender).sum())
        raise UserError(
            f"{dataset}: {count:,} of {len(genders):,} rows are of the {' and '.join(others)} SKEL, and the files are "
            f"to be {gender}: neither format can tell bodies apart. Build the dataset with skel_gender = {gender!r} in "
            "its manifest, or say --gender."
        )
    plan = {}
    for name in dict.fromkeys(source.tolist()):
        plan[name] = _available(shards, source == name, format, dataset, name)
    written = {}
    for name, keys in plan.items():
        path = out / f"{name}-release-skel.npz"
        rows = int((source == name).sum())
        _write(path, shards, name, rows, keys, progress)
        written[path] = rows
    return written


def _available(shards: Shards, rows: np.ndarray, format: str, dataset: Path, source: str) -> dict[str, _Key]:
    """The keys that every row of the source can fill. Raises `UserError` where a required one cannot be."""
    keys, total = {}, int(rows.sum())
    for name, key in _KEYS[format].items():
        there = {column: int(shards.valid(column)[rows].sum()) for column in key.columns}
        column = min(there, key=lambda column: there[column], default=None)
        if column is None or there[column] == total or (key.sparse and there[column] > 0):
            keys[name] = key
        elif key.required:
            raise UserError(
                f"{dataset}: {total - there[column]:,} of {total:,} rows of source {source!r} have no {column}, which "
                f"format {format!r} needs ({name!r}). Leave the source out of the dataset, or annotate it."
            )
    return keys


def _write(
    path: Path,
    shards: Shards,
    source: str,
    rows: int,
    keys: Mapping[str, _Key],
    progress: Callable[[int], object] | None,
) -> None:
    width = max((int(_lengths(file, source)) for file in shards.files()), default=1)
    names = _Key(("imgname",), lambda values: values["imgname"].astype(f"<U{width}"), (), f"<U{width}")
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for name, key in {"imgname": names, **keys}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": key.dtype, "fortran_order": False, "shape": (rows, *key.shape)}
                np.lib.format.write_array_header_2_0(member, header)
                for values in _pieces(shards, source, key):
                    member.write(np.ascontiguousarray(values, key.dtype).tobytes())
                    if progress is not None and name == "imgname":
                        progress(len(values))


def _lengths(shards: Shards, source: str) -> int:
    names = shards["imgname"][shards["source"] == source]
    return max((len(name) for name in names), default=1)


def _pieces(shards: Shards, source: str, key: _Key) -> Iterator[np.ndarray]:
    """A key's values, file by file."""
    columns: Sequence[str] = key.columns or ("center",)
    for file in shards.files():
        members = file["source"] == source
        if members.any():
            yield key.values({column: file[column][members] for column in columns})
