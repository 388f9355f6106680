"""Everything that reads other people's files, and small files of each kind."""

import io
import json
import pickle
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse
import torch
from safetensors.torch import save as save_tensors

from hmr_skel.body.assets import load_regressor, load_skel_arrays, load_smpl_arrays
from hmr_skel.convert.formats import read_clips
from hmr_skel.convert.reading import ReadOptions
from hmr_skel.data.annotations import check_rows, plan_source
from hmr_skel.data.images import UnreadableImage, decode
from hmr_skel.data.load import load_shards
from hmr_skel.data.manifest import load_manifest, parse_manifest
from hmr_skel.data.meta import meta_text
from hmr_skel.data.npz import file_sha256
from hmr_skel.data.schema import SCHEMA, rejects_table, shard_table
from hmr_skel.data.shards import Piece, Shard, plan
from hmr_skel.data.verify import verify_files
from hmr_skel.errors import UserError
from hmr_skel.evaluate.benchmarks import BENCHMARKS
from hmr_skel.evaluate.labels import BenchmarkRows, load_rows
from hmr_skel.foreign import load_torch
from hmr_skel.model.checkpoint import FORMAT as NETWORK_FORMAT
from hmr_skel.model.checkpoint import load_mean, load_network
from hmr_skel.predict.box_files import load_boxes
from hmr_skel.rows import AnnotationRows
from hmr_skel.train.log import keep_until, read_log
from hmr_skel.train.state import FORMAT as STATE_FORMAT
from hmr_skel.train.state import load_state
from hmr_skel.two_stage import read_predictions
from tools.drill.fuzz import Reader

LABELS = {
    "imgname": np.array(["0.jpg", "1.jpg", "2.jpg"]), "center": np.full((3, 2), 100, np.float32),
    "scale": np.ones(3, np.float32), "pose_cam": np.zeros((3, 72), np.float32), "shape": np.zeros((3, 10)),
    "trans_cam": np.ones((3, 3), np.float32), "cam_int": np.tile(np.eye(3, dtype=np.float32), (3, 1, 1)),
    "gender": np.array(["m", "f", "n"]),
}  # fmt: skip
MODEL = {
    "v_template": np.zeros((4, 3)), "f": np.zeros((2, 3), np.uint32), "shapedirs": np.zeros((4, 3, 10)),
    "posedirs": np.zeros((4, 3, 207)), "weights": np.zeros((4, 24)), "kintree_table": np.zeros((2, 24), int),
    "J_regressor": scipy.sparse.csc_matrix(np.eye(24, 4)), "version": "1.1.1",
}  # fmt: skip
MANIFEST = b"""name = "x"
skel_gender = "male"
rows_per_shard = 1000
held_out_shards = 1
[body_models]
kind = "open"
path = "${HMR_X:-data}/models"
[[sources]]
name = "a"
format = "camerahmr"
file = "a.npz"
rows = 5000
image_path = [["^a/", "b/"]]
exclude = ["x"]
[sources.fields]
smpl_betas = ["shape"]
"""
TRAINING_LOG = b'{"step": 1, "loss": 0.5}\n{"step": 2}\n{"step": 3}\n'
MEAN = {"poses": np.zeros(46), "betas": np.zeros(10), "cam": np.zeros(3)}
SHARD = Shard(0, 1, (Piece("a", 0, 3),), False)
META = {
    "shard": 0, "shards": 1, "split": "train", "rows": 3, "kept": 3, "rejected": 0,
    "pieces": [{"source": "a", "start": 0, "stop": 3}], "made_from": {}, "fingerprint": "f",
}  # fmt: skip


def saved(save: Callable[..., object], *arguments: Any, **options: Any) -> bytes:
    """The bytes that `save` writes to a file object, its first argument."""
    file = io.BytesIO()
    save(file, *arguments, **options)
    return file.getvalue()


def torch_saved(content: object, **options: Any) -> bytes:
    return saved(lambda file: torch.save(content, file, **options))


def pickles(content: object) -> list[bytes]:
    return [pickle.dumps(content, protocol) for protocol in (0, 2, 4)]


def npz_files(arrays: dict[str, Any]) -> list[bytes]:
    return [saved(np.savez, **arrays), saved(np.savez_compressed, **arrays)]


def read_labels(path: Path, allow_pickle: bool) -> object:
    source = {"name": "a", "format": "camerahmr", "file": str(path), "num_betas": 16, "allow_pickle": allow_pickle}
    models = {"kind": "files", "path": "x"}
    manifest = {"name": "x", "skel_gender": "male", "rows_per_shard": 8, "body_models": models, "sources": [source]}
    reader = plan_source(parse_manifest(manifest, "fuzz").sources[0], path.parent / "cache").open()
    return check_rows(reader.read(0, min(reader.num_rows, 100)), ())


def read_plan(path: Path) -> object:
    manifest = load_manifest(path)
    return plan(manifest, {source.name: source.rows or 10 for source in manifest.sources})


def read_parquet(path: Path) -> object:
    shards = load_shards(path)
    whole = {name: shards[name] for name in shards.columns}
    return whole, shards.valid("skel_q"), shards[0] if len(shards) else None


def parquet_files() -> list[bytes]:
    rows = AnnotationRows(
        "a", np.arange(3), LABELS["imgname"].astype(object), LABELS["center"], np.ones((3, 2), np.float32),
        skel_q=np.zeros((3, 46), np.float32), skel_betas=np.zeros((3, 10), np.float32),
        skel_gender=np.full(3, "male", object),
    )  # fmt: skip
    table = pa.concat_tables([SCHEMA.empty_table(), shard_table(rows, None)])
    return [saved(lambda file, by: pq.write_table(table, file, compression=by), by) for by in ("zstd", "none")]


def read_dataset(path: Path) -> object:
    """A shard with whatever content, whose meta file records the right checksum."""
    out = path.parent / "dataset"
    data, rejects = SHARD.data_file(out), SHARD.rejects_file(out)
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(path.read_bytes())
    rejects.parent.mkdir(exist_ok=True)
    pq.write_table(rejects_table([]), rejects)
    files = {
        file.relative_to(out).as_posix(): {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in (data, rejects)
    }
    SHARD.meta_file(out).parent.mkdir(exist_ok=True)
    SHARD.meta_file(out).write_text(meta_text(META | {"files": files}))
    return verify_files(out)


def read_meta(path: Path) -> object:
    """A meta file with whatever content, and the right checksum of its own where it is JSON."""
    out = path.parent / "dataset"
    SHARD.meta_file(out).parent.mkdir(parents=True, exist_ok=True)
    try:
        SHARD.meta_file(out).write_text(meta_text(json.loads(path.read_bytes())))
    except (ValueError, TypeError, RecursionError):
        SHARD.meta_file(out).write_bytes(path.read_bytes())
    return verify_files(out)


def meta_files() -> list[bytes]:
    made_from = {"manifest": "m", "body_models": "b", "recipe": {}, "fit_version": 1, "pieces": [["a", 0, 3, "x"]]}
    names = ("data/train-00000-of-00001.parquet", "rejects/rejects-00000-of-00001.parquet")
    files = {"files": {name: {"bytes": 5, "sha256": "0"} for name in names}}
    return [json.dumps(META | files | {"made_from": of}).encode() for of in ({}, made_from)]


def network_files() -> list[bytes]:
    about = {"network": {"vit": {}, "decoder": {}}, "skel_gender": "male", "recipe": "tiny"}
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    return [save_tensors(tensors, {"about": json.dumps(about | {"format": name})}) for name in ("x", NETWORK_FORMAT)]


def checkpoints() -> list[bytes]:
    content = {"state_dict": {"a": torch.zeros(2, 3)}, "epoch": 3}
    return [torch_saved(content, _use_new_zipfile_serialization=zipped) for zipped in (True, False)]


def training_states() -> list[bytes]:
    numbers = {"step": 3, "skipped_steps": 0, "skipped_samples": 0, "seconds": 1.5, "rows": 7}
    tensors = {"a": torch.zeros(2, 3)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {"format": STATE_FORMAT, "recipe": {"name": "tiny"}, "model": tensors, "ema": tensors}
    return [torch_saved(content | numbers | {"optimizer": optimizer})]


def read_training_log(path: Path) -> object:
    keep_until(path, 2)
    return read_log(path)


def read_benchmark(path: Path, name: str) -> object:
    return load_rows(BENCHMARKS[name], path)


def benchmark_files(name: str) -> list[bytes]:
    """The labels of 4D-Humans and HSMR."""
    rows, names = 2, np.array(["a/0.jpg", "a/1.jpg"])
    centers, scales = np.full((rows, 2), 100.0), np.full((rows, 2), 200.0)
    if name == "coco":
        sizes = {"body_keypoints_2d": (25, 3), "extra_keypoints_2d": (19, 3)}
        sizes |= {"body_keypoints_3d": (25, 4), "extra_keypoints_3d": (19, 4)}
        points = {key: np.ones((rows, *size)) for key, size in sizes.items()}
        return npz_files({"imgname": names.astype(object), "center": centers, "scale": scales, **points})
    smpl = {"global_orient": np.zeros((rows, 3)), "body_pose": np.zeros((rows, 69)), "betas": np.zeros((rows, 10))}
    return npz_files({"img_paths": names, "centers": centers, "scales": scales, "smpl": np.array(smpl, object)})


def read_boxes(path: Path) -> object:
    kinds = {b"P": ".npz", b"[": ".json", b"{": ".json"}
    return load_boxes(path.rename(path.with_suffix(kinds.get(path.read_bytes()[:1], ".csv"))), 1.2)


def box_files() -> list[bytes]:
    boxes = np.array([[0.0, 0, 9, 9], [1, 1, 5, 6]])
    return [
        *npz_files({"imgname": LABELS["imgname"][:2], "boxes": boxes}), saved(np.savez_compressed, **LABELS),
        b'{"a.jpg": [[0, 0, 9, 9], [1, 1, 5, 6]]}',
        b'[{"image": "a.jpg", "box": [0, 0, 9, 9], "frame": 3, "focal": 900}]',
        b"image,x1,y1,x2,y2,frame,score\na.jpg,0,0,9,9,1,0.5\nb.jpg,1,1,5,6,,\n",
    ]  # fmt: skip


def read_predicted(path: Path) -> object:
    names, ones = np.array(["0.jpg", "1.jpg"], object), np.ones(2, np.float32)
    rows = BenchmarkRows(np.arange(2), names, np.ones((2, 2), np.float32), ones, ones)
    return read_predictions(path, rows, names, None)


def predictions() -> list[bytes]:
    arrays = {"pose": np.zeros((2, 72)), "betas": np.zeros((2, 10)), "imgname": np.array(["1.jpg", "0.jpg"])}
    return [saved(np.savez, **arrays), pickle.dumps(arrays, 2), pickle.dumps(arrays | {"gender": "female"}, 4)]


def read_image(path: Path) -> object:
    try:
        return decode(path.read_bytes(), 1.0)
    except UnreadableImage as error:  # the loader counts and replaces it
        raise UserError(str(error)) from error


def images() -> list[bytes]:
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    files = [cv2.imencode(kind, picture)[1].tobytes() for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff")]
    return [*files, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()]


def read_motion(path: Path) -> object:
    return read_clips(path, ReadOptions(smpl_gender="male", frame="y-up", frame_rate=30.0))


def motions() -> list[bytes]:
    one = {"poses": np.zeros((2, 72)), "betas": np.zeros(10), "trans": np.zeros((2, 3)), "gender": "male"}
    amass = one | {"poses": np.zeros((2, 156)), "betas": np.zeros(16), "mocap_framerate": 30.0}
    plain = {"pose": [[0.0] * 72], "betas": [0.0] * 10, "transl": [[0.0] * 3]}
    objects = {"poses": np.array(one, object), "names": np.array(["a", None], object)}
    return [
        saved(np.savez, **one), saved(np.savez_compressed, **amass), saved(np.savez, **objects),
        pickle.dumps(one, 2), pickle.dumps(one, 4), zlib.compress(pickle.dumps(one)), json.dumps(plain).encode(),
        saved(np.save, np.zeros((2, 72))), torch_saved({name: torch.as_tensor(value) for name, value in plain.items()}),
    ]  # fmt: skip


def read_model(path: Path) -> object:
    return load_smpl_arrays(path), load_skel_arrays(path)


def label_files() -> list[bytes]:
    return [*npz_files(LABELS), saved(np.savez, **LABELS | {"imgname": LABELS["imgname"].astype(object)})]


READERS = (
    Reader("label files", ".npz", partial(read_labels, allow_pickle=False), label_files),
    Reader("label files with objects", ".npz", partial(read_labels, allow_pickle=True), label_files),
    Reader("model files", ".pkl", read_model, partial(pickles, MODEL)),
    Reader("manifests", ".toml", read_plan, partial(list, [MANIFEST])),
    Reader("Parquet shards", ".parquet", read_parquet, parquet_files),
    Reader("shards to verify", ".parquet", read_dataset, parquet_files),
    Reader("meta files", ".json", read_meta, meta_files),
    Reader("networks", ".safetensors", load_network, network_files),
    Reader("published checkpoints", ".pth", partial(load_torch, foreign=True), checkpoints),
    Reader("training states", ".pt", load_state, training_states),
    Reader("training logs", ".jsonl", read_training_log, partial(list, [TRAINING_LOG])),
    Reader("mean poses", ".npz", load_mean, partial(npz_files, MEAN)),
    Reader("regressors", ".npy", partial(load_regressor, rows=2), partial(list, [saved(np.save, np.zeros((2, 10)))])),
    Reader("benchmarks of CameraHMR", ".npz", partial(read_benchmark, name="emdb"), partial(npz_files, LABELS)),
    Reader("benchmarks of 4D-Humans", ".npz", partial(read_benchmark, name="coco"), partial(benchmark_files, "coco")),
    Reader("benchmarks of HSMR", ".npz", partial(read_benchmark, name="moyo"), partial(benchmark_files, "moyo")),
    Reader("predictions", ".bin", read_predicted, predictions),
    Reader("boxes", ".bin", read_boxes, box_files),
    Reader("images", ".img", read_image, images),
    Reader("motions to convert", ".bin", read_motion, motions),
)
