"""Readers of label files, models, manifests and datasets, and a few small sound files of each kind to start from."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tools.drill.fuzz_target import Target, npz


def _labels(allow_pickle: bool) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from hmr_skel.data.annotations import open_source
        from hmr_skel.data.checks import check_rows
        from hmr_skel.data.manifest import parse_manifest

        content = {
            "name": "x", "skel_gender": "male", "rows_per_shard": 8, "body_models": {"kind": "files", "path": "x"},
            "sources": [
                {"name": "a", "format": "camerahmr", "file": str(path), "num_betas": 16, "allow_pickle": allow_pickle}
            ],
        }  # fmt: skip
        source = parse_manifest(content, "fuzz").sources[0]
        reader = open_source(source, path.parent / "cache")
        return check_rows(reader.read(0, min(reader.num_rows, 100)), ())

    return read


def _label_arrays() -> dict[str, np.ndarray]:
    rows = 3
    return {
        "imgname": np.array([f"{i}.jpg" for i in range(rows)]),
        "center": np.full((rows, 2), 100, np.float32),
        "scale": np.ones(rows, np.float32),
        "pose_cam": np.zeros((rows, 72), np.float32),
        "shape": np.zeros((rows, 10)),
        "trans_cam": np.ones((rows, 3), np.float32),
        "cam_int": np.tile(np.eye(3, dtype=np.float32), (rows, 1, 1)),
    }


def _label_files() -> list[bytes]:
    arrays = _label_arrays()
    objects = arrays | {"imgname": arrays["imgname"].astype(object)}
    return [npz(np.savez, arrays), npz(np.savez_compressed, arrays), npz(np.savez, objects)]


def _read_model(path: Path) -> object:
    from hmr_skel.body.assets import load_skel_arrays, load_smpl_arrays

    return load_smpl_arrays(path), load_skel_arrays(path)


def _model_files() -> list[bytes]:
    import scipy.sparse

    arrays = {
        "v_template": np.zeros((4, 3)), "f": np.zeros((2, 3), np.uint32), "shapedirs": np.zeros((4, 3, 10)),
        "posedirs": np.zeros((4, 3, 207)), "weights": np.zeros((4, 24)), "kintree_table": np.zeros((2, 24), int),
        "J_regressor": scipy.sparse.csc_matrix(np.eye(24, 4)), "version": "1.1.1",
    }  # fmt: skip
    return [pickle.dumps(arrays, protocol) for protocol in (0, 2, 4)]


def _read_manifest(path: Path) -> object:
    from hmr_skel.data.manifest import load_manifest
    from hmr_skel.data.shards import plan

    manifest = load_manifest(path)
    return plan(manifest, {source.name: source.rows or 10 for source in manifest.sources})


def _manifests() -> list[bytes]:
    return [
        b'name = "x"\nskel_gender = "male"\nrows_per_shard = 1000\nheld_out_shards = 1\n[body_models]\nkind = "open"\n'
        b'path = "${HMR_X:-data}/models"\n[[sources]]\nname = "a"\nformat = "camerahmr"\nfile = "a.npz"\nrows = 5000\n'
        b'image_path = [["^a/", "b/"]]\nexclude = ["x"]\n[sources.fields]\nsmpl_betas = ["shape"]\n',
        Path("manifests/open.toml").read_bytes() if Path("manifests/open.toml").is_file() else b'name = "y"\n',
    ]


def _read_parquet(path: Path) -> object:
    from hmr_skel.data.load import load_shards

    shards = load_shards(path)
    whole = {name: shards[name] for name in shards.columns}
    return whole, shards.valid("skel_q"), shards[0] if len(shards) else None


def _parquet_files() -> list[bytes]:
    from hmr_skel.data.schema import SCHEMA, shard_table
    from hmr_skel.rows import AnnotationRows

    labels = _label_arrays()
    rows = AnnotationRows(
        "a", np.arange(3), labels["imgname"].astype(object), labels["center"], np.ones((3, 2), np.float32),
        skel_q=np.zeros((3, 46), np.float32), skel_betas=np.zeros((3, 10), np.float32),
        skel_gender=np.full(3, "male", object),
    )  # fmt: skip
    table = pa.concat_tables([SCHEMA.empty_table(), shard_table(rows, None)])
    files = []
    for compression in ("zstd", "none"):
        file = io.BytesIO()
        pq.write_table(table, file, compression=compression)
        files.append(file.getvalue())
    return files


def _read_dataset(path: Path) -> object:
    """A shard whose checksums are right, whatever is in it: somebody made it so."""
    from hmr_skel.data.meta import meta_text
    from hmr_skel.data.npz import file_sha256
    from hmr_skel.data.schema import write_rejects
    from hmr_skel.data.shards import Piece, Shard
    from hmr_skel.data.verify import verify_files

    out = path.parent / "dataset"
    shard = Shard(0, 1, (Piece("a", 0, 3),), False)
    data = shard.data_file(out)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(path.read_bytes())
    write_rejects(out, shard, [])
    rejects = shard.rejects_file(out)
    files = {
        file.relative_to(out).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in (data, rejects)
    }
    meta = {
        "shard": 0, "shards": 1, "split": "train", "rows": 3, "kept": 3, "rejected": 0,
        "pieces": [{"source": "a", "start": 0, "stop": 3}], "made_from": {}, "fingerprint": "f", "files": files,
    }  # fmt: skip
    shard.meta_file(out).parent.mkdir(exist_ok=True)
    shard.meta_file(out).write_text(meta_text(meta))
    return verify_files(out)


def _read_meta(path: Path) -> object:
    """A meta file whose checksum is right, whatever it says."""
    from hmr_skel.data.meta import meta_text
    from hmr_skel.data.verify import foreign_shards, verify_files

    out = path.parent / "dataset"
    (out / "meta").mkdir(parents=True, exist_ok=True)
    target = out / "meta" / "shard-00000-of-00001.json"
    try:
        content = json.loads(path.read_bytes())
        text = meta_text(content)
    except (ValueError, TypeError, RecursionError):
        target.write_bytes(path.read_bytes())
    else:
        target.write_text(text)
    report = verify_files(out)
    return report, foreign_shards(out, report.sound)


def _meta_files() -> list[bytes]:
    made_from = {"manifest": "m", "body_models": "b", "recipe": {}, "fit_version": 1, "pieces": [["a", 0, 3, "x"]]}
    names = ("data/train-00000-of-00001.parquet", "rejects/rejects-00000-of-00001.parquet")
    meta = {
        "shard": 0, "shards": 1, "split": "train", "rows": 3, "kept": 3, "rejected": 0,
        "pieces": [{"source": "a", "start": 0, "stop": 3}],
        "fingerprint": "f", "files": {name: {"bytes": 5, "sha256": "0"} for name in names},
    }  # fmt: skip
    return [json.dumps(meta | {"made_from": from_}).encode() for from_ in ({}, made_from)]


OF_DATASETS = (
    Target("label files", ".npz", _labels(False), _label_files),
    Target("label files with objects", ".npz", _labels(True), _label_files),
    Target("model files", ".pkl", _read_model, _model_files),
    Target("manifests", ".toml", _read_manifest, _manifests),
    Target("Parquet shards", ".parquet", _read_parquet, _parquet_files),
    Target("shards to verify", ".parquet", _read_dataset, _parquet_files),
    Target("meta files", ".json", _read_meta, _meta_files),
)
"""Of what a dataset is built from and what it consists of."""
