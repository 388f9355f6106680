"""A dataset of ours in the files that other trainers read: SKEL-CF's `*-release-skel.npz`, and HSMR's fields.

One uncompressed .npz per source. Columns are streamed shard by shard, so that three million rows need no memory.
"""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmr_skel.convert.fit import Bodies
from hmr_skel.convert.mirror import mirrored_largest_mm, mirrored_q
from hmr_skel.data.atomic import replacing
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.manifest import NAME
from hmr_skel.errors import UserError

FORMATS = ("skel-cf", "hsmr")
SKEL_CF, HSMR = FORMATS
HSMR_MAX_PVE = 0.06
"""m. HSMR's trainer takes no pose and betas from rows whose largest vertex distance is beyond; it looks itself."""
_TEXT = "text"  # a dtype whose width is found in the rows

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


def _extra_info(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """A JSON object per row: HSMR's records hold a dict there, and an .npz without pickles holds texts."""
    names = {"dataset_name": "source", "row_id": "row_id", "source_row": "source_row", "status": "status"}
    columns = [rows[column].tolist() for column in names.values()]
    return np.array([json.dumps(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)])


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
        "extra_info": _Key(("source", "row_id", "source_row", "status"), _extra_info, (), _TEXT),
        "flip_poses": _Key(("skel_q",), lambda rows: mirrored_q(rows["skel_q"]), (46,)),
        "flip_betas": _same("skel_betas", 10),
    },
}
_FLIP_PVE_MAX = "flip_pve_max"
_FLIP_COLUMNS = (
    *("smpl_pose", "smpl_betas", "smpl_transl", "smpl_gender"),
    *("skel_q", "skel_betas", "skel_transl", "skel_gender", "v2v_max_mm"),
)


@dataclass(frozen=True)
class Exported:
    """A written file."""

    rows: int
    beyond: int
    """Rows whose `orig_pve_max` or `flip_pve_max` is beyond `HSMR_MAX_PVE`; 0 of a format without them."""


def export_dataset(
    dataset: Path,
    out: Path,
    format: str,
    gender: str = "male",
    split: str | None = "train",
    bodies: Bodies | None = None,
    progress: Callable[[int], object] | None = None,
) -> dict[Path, Exported]:
    """Write a dataset's rows as `out/<source>-release-skel.npz`, one file per source.

    Args:
        dataset: the folder.
        out: the folder for the files.
        format: `skel-cf`: the keys that the published SKEL-CF trainer reads, with the SMPL labels beside them. `hsmr`:
            the fields of HSMR's training records, as arrays; the mirrored pose is that of the mirrored skeleton.
        gender: the SKEL body that the files are for; neither format says which, so that rows of the other are refused.
        split: train, test (held-out shards), or None for both.
        bodies: the body models that the dataset was fitted with; `hsmr` needs them for the `flip_pve_max` of rows that
            were fitted, which is measured on meshes.
        progress: called with rows just written.

    Returns:
        What was written, by file.

    Raises:
        UserError: a source has a name that no manifest takes, or rows are of the other gender or lack what the format
            needs; the text says which. Or the body models are missing, or others than those of the fit.
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
        if not NAME.fullmatch(name):  # it becomes a file's, and a Parquet file can say `../x`
            raise UserError(f"{dataset}: {name!r} is no source's name: expected letters, digits, _, - and single dots.")
        plan[name] = _available(shards, source == name, _keys(format, bodies), dataset, name)
    written = {}
    for name, keys in plan.items():
        path = out / f"{name}-release-skel.npz"
        rows = int((source == name).sum())
        written[path] = Exported(rows, _write(path, shards, name, rows, keys, progress))
    return written


def _keys(format: str, bodies: Bodies | None) -> dict[str, _Key]:
    """The format's keys, the slowest first: the one whose rows the progress bar counts."""
    keys = {"imgname": _Key(("imgname",), lambda rows: rows["imgname"], (), _TEXT), **_KEYS[format]}
    if format != HSMR:
        return keys

    def flip_pve_max(rows: Mapping[str, np.ndarray]) -> np.ndarray:
        if bodies is None:
            raise UserError(
                f"{_FLIP_PVE_MAX} is measured on meshes and takes the body models of the fit: name their folder with "
                "--body-models DIR or HMR_SKEL_BODY_MODELS; --body-models open takes the openly licensed body."
            )
        return mirrored_largest_mm(rows, bodies) / np.float32(1000)

    return {_FLIP_PVE_MAX: _Key(_FLIP_COLUMNS, flip_pve_max, (), required=False), **keys}


def _available(
    shards: Shards, rows: np.ndarray, keys: Mapping[str, _Key], dataset: Path, source: str
) -> dict[str, _Key]:
    """Those of the keys that every row of the source can fill. Raises `UserError` where a required one cannot be."""
    found, total = {}, int(rows.sum())
    for name, key in keys.items():
        there = {column: int(shards.valid(column)[rows].sum()) for column in key.columns}
        column = min(there, key=lambda column: there[column], default=None)
        if column is None or there[column] == total or (key.sparse and there[column] > 0):
            found[name] = key
        elif key.required:
            raise UserError(
                f"{dataset}: {total - there[column]:,} of {total:,} rows of source {source!r} have no {column}, which "
                f"the format needs for {name!r}. Leave the source out of the dataset, or annotate it."
            )
    return found


def _write(
    path: Path,
    shards: Shards,
    source: str,
    rows: int,
    keys: Mapping[str, _Key],
    progress: Callable[[int], object] | None,
) -> int:
    """Write one source's file. Returns how many of its rows are beyond `HSMR_MAX_PVE`."""
    beyond = np.zeros(rows, bool)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for i, (name, key) in enumerate(keys.items()):
            dtype = _width(shards, source, key) if key.dtype == _TEXT else key.dtype
            start = 0
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": dtype, "fortran_order": False, "shape": (rows, *key.shape)}
                np.lib.format.write_array_header_2_0(member, header)
                for values in _pieces(shards, source, key):
                    member.write(np.ascontiguousarray(values.astype(dtype)).tobytes())
                    if name.endswith("pve_max"):
                        beyond[start : start + len(values)] |= values > HSMR_MAX_PVE
                    start += len(values)
                    if progress is not None and i == 0:
                        progress(len(values))
    return int(beyond.sum())


def _width(shards: Shards, source: str, key: _Key) -> str:
    """The dtype of texts: as wide as the longest of all rows."""
    widest = max((len(text) for values in _pieces(shards, source, key) for text in values.tolist()), default=1)
    return f"<U{max(widest, 1)}"


def _pieces(shards: Shards, source: str, key: _Key) -> Iterator[np.ndarray]:
    """A key's values, file by file."""
    columns: Sequence[str] = key.columns or ("center",)
    for file in shards.files():
        members = file["source"] == source
        if members.any():
            yield key.values({column: file[column][members] for column in columns})
