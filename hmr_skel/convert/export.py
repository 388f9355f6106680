"""A dataset of ours as files that other trainers read: SKEL-CF's `*-release-skel.npz`, and HSMR's fields.

Each source becomes one uncompressed .npz. Columns are read and written shard by shard: three million rows need no more
memory than one shard.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hmr_skel.convert.fit import Bodies
from hmr_skel.convert.mirror import mirrored_largest_mm, mirrored_q
from hmr_skel.data.atomic import replacing
from hmr_skel.data.load import Shards, load_shards
from hmr_skel.data.manifest import NAME
from hmr_skel.errors import UserError

LABEL_LAYOUTS = ("skel-cf", "hsmr")
SKEL_CF, HSMR = LABEL_LAYOUTS
HSMR_MAX_PVE = 0.06
"""m. HSMR's trainer itself ignores pose and betas of rows whose largest vertex distance is larger."""
_TEXT = "text"  # a dtype; the rows decide its width

Values = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class _Key:
    """A key of the written file: its columns of the dataset, and its values from them. `shape` is of one row."""

    columns: tuple[str, ...]
    values: Values
    shape: tuple[int, ...]
    dtype: str = "<f4"
    required: bool = True
    """Rows without it are an error if required; else the file goes without the key."""
    sparse: bool = False
    """Some rows may lack it: `values` has a value that says so."""


def _same(column: str, *shape: int, required: bool = True) -> _Key:
    return _Key((column,), lambda rows: rows[column].reshape(-1, *shape), shape, required=required)


def _keypoints(column: str, *shape: int, required: bool = True) -> _Key:
    """Keypoints. Where not annotated, coordinates and confidence are 0: trainers multiply, and 0 * NaN is NaN."""

    def values(rows: Mapping[str, np.ndarray]) -> np.ndarray:
        points = rows[column].reshape(-1, *shape)
        there = np.isfinite(points).all(-1, keepdims=True)
        return np.where(there, points, np.float32(0))

    return _Key((column,), values, shape, required=required, sparse=True)


def _extra_info(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """A JSON object for each row: HSMR's records hold a dict, and an .npz without pickles holds texts."""
    names = {"dataset_name": "source", "row_id": "row_id", "source_row": "source_row", "status": "status"}
    columns = [rows[column].tolist() for column in names.values()]
    return np.array([json.dumps(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)])


_BOX = {
    "imgname": _Key(("imgname",), lambda rows: rows["imgname"], (), _TEXT),
    "center": _same("center", 2),
    "scale": _same("scale", 2),
}
_KEYS: Mapping[str, Mapping[str, _Key]] = {
    SKEL_CF: {
        **_BOX,
        "cam_int": _same("cam_int", 3, 3),
        "gtkps": _keypoints("keypoints_2d", 44, 3),
        "keypoints3d": _keypoints("keypoints_3d", 44, 4),
        "skel_poses": _same("skel_q", 46),
        "skel_betas": _same("skel_betas", 10),
        "skel_trans": _same("skel_transl", 3, required=False),
        # SMPL twice: under the names in CameraHMR's labels, and under those of the published fitter.
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


@dataclass
class _SourceRows:
    """The rows of one source, found in one pass over the shards."""

    name: str
    parts: list[tuple[Shards, np.ndarray]] = field(default_factory=list)
    """Each file that holds some of them, and a mask of its rows."""
    rows: int = 0
    there: Counter[str] = field(default_factory=Counter)
    """Column -> the number of rows that have it."""


@dataclass(frozen=True)
class Exported:
    """A written file."""

    rows: int
    beyond: int
    """Rows whose `orig_pve_max` or `flip_pve_max` is above `HSMR_MAX_PVE`; 0 for a format without these keys."""


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
        gender: the SKEL body that the files are for. Neither format has a gender, so rows of the other are refused.
        split: train, test (held-out shards), or None for both.
        bodies: the body models that the dataset was fitted with. `hsmr` needs them where rows were fitted, to measure
            `flip_pve_max` on meshes.
        progress: called with the number of rows just written.

    Returns:
        Each written file, with its counts.

    Raises:
        UserError: a source's name is not allowed in manifests; rows are of the other gender or lack what the format
            needs; the body models are missing, or are not those of the fit.
    """
    shards = load_shards(dataset, split=split)
    _check_gender(shards, dataset, gender)
    keys = _keys(format, bodies)
    sources = _sources(shards, {column for key in keys.values() for column in key.columns})
    for name in sources:
        if not NAME.fullmatch(name or ""):  # it becomes a file's name, and a Parquet file can say `../x`
            raise UserError(f"{dataset}: {name!r} is no source's name: expected letters, digits, _, - and single dots.")
    plan = {name: _available(source, keys, dataset) for name, source in sources.items()}
    written = {}
    for name, source in sources.items():
        path = out / f"{name}-release-skel.npz"
        written[path] = Exported(source.rows, _write(path, source, plan[name], progress))
    return written


def _check_gender(shards: Shards, dataset: Path, gender: str) -> None:
    found: Counter[str] = Counter()
    for file in shards.files():
        found.update(map(str, file["skel_gender"].tolist()))
    if others := sorted(set(found) - {gender}):
        raise UserError(
            f"{dataset}: {found.total() - found[gender]:,} of {found.total():,} rows are of the "
            f"{' and '.join(others)} SKEL, and the files are to be {gender}: neither format can tell bodies apart. "
            f"Build the dataset with skel_gender = {gender!r} in its manifest, or say --gender."
        )


def _sources(shards: Shards, columns: Iterable[str]) -> dict[str, _SourceRows]:
    """The sources in the order of their first rows, with counts of the rows that have each of the columns."""
    sources: dict[str, _SourceRows] = {}
    for file in shards.files():
        names = file["source"]
        members = {name: names == name for name in dict.fromkeys(names.tolist())}
        for name, mask in members.items():
            source = sources.setdefault(name, _SourceRows(name))
            source.parts.append((file, mask))
            source.rows += int(mask.sum())
        for column in columns:
            there = file.valid(column)
            for name, mask in members.items():
                sources[name].there[column] += int((there & mask).sum())
    return sources


def _keys(format: str, bodies: Bodies | None) -> dict[str, _Key]:
    """The format's keys. The slowest is first: the progress bar counts its rows."""
    if format != HSMR:
        return dict(_KEYS[format])

    def flip_pve_max(rows: Mapping[str, np.ndarray]) -> np.ndarray:
        if bodies is None:
            raise UserError(
                f"{_FLIP_PVE_MAX} is measured on meshes and takes the body models of the fit: name their folder with "
                "--body-models DIR or HMR_SKEL_BODY_MODELS; --body-models open takes the openly licensed body."
            )
        return mirrored_largest_mm(rows, bodies) / np.float32(1000)

    return {_FLIP_PVE_MAX: _Key(_FLIP_COLUMNS, flip_pve_max, (), required=False), **_KEYS[format]}


def _available(source: _SourceRows, keys: Mapping[str, _Key], dataset: Path) -> dict[str, _Key]:
    """The keys that the source's rows can fill. Raises `UserError` where one of them is required and cannot be."""
    found, total = {}, source.rows
    for name, key in keys.items():
        column = min(key.columns, key=lambda column: source.there[column], default=None)
        lacking = 0 if column is None else total - source.there[column]
        if not lacking or (key.sparse and lacking < total):
            found[name] = key
        elif key.required:
            raise UserError(
                f"{dataset}: {lacking:,} of {total:,} rows of source {source.name!r} have no {column}, which the "
                f"format needs for {name!r}. Leave the source out of the dataset, or annotate it."
            )
    return found


def _write(path: Path, source: _SourceRows, keys: Mapping[str, _Key], progress: Callable[[int], object] | None) -> int:
    """Write one source's file. Returns the number of its rows that are above `HSMR_MAX_PVE`."""
    beyond = np.zeros(source.rows, bool)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", allowZip64=True) as archive:
        for i, (name, key) in enumerate(keys.items()):
            dtype = _width(source, key) if key.dtype == _TEXT else key.dtype
            start = 0
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": dtype, "fortran_order": False, "shape": (source.rows, *key.shape)}
                np.lib.format.write_array_header_2_0(member, header)
                for values in _pieces(source, key):
                    member.write(np.ascontiguousarray(values.astype(dtype)).tobytes())
                    if name.endswith("pve_max"):
                        beyond[start : start + len(values)] |= values > HSMR_MAX_PVE
                    start += len(values)
                    if progress is not None and i == 0:
                        progress(len(values))
    return int(beyond.sum())


def _width(source: _SourceRows, key: _Key) -> str:
    """The dtype of texts, as wide as the longest of all rows."""
    widest = max((len(text) for values in _pieces(source, key) for text in values.tolist()), default=1)
    return f"<U{max(widest, 1)}"


def _pieces(source: _SourceRows, key: _Key) -> Iterator[np.ndarray]:
    """A key's values, file by file."""
    columns: Sequence[str] = key.columns or ("center",)
    for file, members in source.parts:
        yield key.values({column: file[column][members] for column in columns})
