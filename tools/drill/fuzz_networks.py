"""Readers of networks, benchmarks, images, boxes and motions, and small sound files of each kind to start from."""

import io
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hmr_skel.errors import UserError
from tools.drill.fuzz_target import Target, npz


def _read_network(path: Path) -> object:
    from hmr_skel.model.checkpoint import load_network

    return load_network(path)


def _network_files() -> list[bytes]:
    from safetensors.torch import save

    about = {"format": "x", "network": {"vit": {}, "decoder": {}}, "skel_gender": "male", "recipe": "tiny"}
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(1, dtype=torch.int64)}
    from hmr_skel.model.checkpoint import FORMAT

    return [save(tensors, {"about": json.dumps(about | {"format": name})}) for name in ("x", FORMAT)]


def _read_checkpoint(path: Path) -> object:
    from hmr_skel.foreign import load_torch

    return load_torch(path, foreign=True)


def _checkpoints() -> list[bytes]:
    files = []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"state_dict": {"a": torch.zeros(2, 3)}, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
        files.append(file.getvalue())
    return files


def _read_mean(path: Path) -> object:
    from hmr_skel.model.checkpoint import load_mean

    return load_mean(path)


def _mean_files() -> list[bytes]:
    arrays = {"poses": np.zeros(46), "betas": np.zeros(10), "cam": np.zeros(3)}
    return [npz(np.savez, arrays), npz(np.savez_compressed, arrays)]


def _read_image(path: Path) -> object:
    from hmr_skel.data.images import UnreadableImage, decode

    try:
        return decode(path.read_bytes(), 1.0)
    except UnreadableImage as error:  # counted and replaced by the loader
        raise UserError(str(error)) from error


def _images() -> list[bytes]:
    import cv2

    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    files = [cv2.imencode(kind, picture)[1].tobytes() for kind in (".jpg", ".png", ".bmp", ".webp", ".tiff")]
    return [*files, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()]


def _read_motion(path: Path) -> object:
    from hmr_skel.convert.formats import read_clips
    from hmr_skel.convert.reading import ReadOptions

    return read_clips(path, ReadOptions(smpl_gender="male", frame="y-up", frame_rate=30.0))


def _motions() -> list[bytes]:
    one = {"poses": np.zeros((2, 72)), "betas": np.zeros(10), "trans": np.zeros((2, 3)), "gender": "male"}
    amass = one | {"poses": np.zeros((2, 156)), "betas": np.zeros(16), "mocap_framerate": 30.0}
    plain = {"pose": [[0.0] * 72], "betas": [0.0] * 10, "transl": [[0.0] * 3]}
    npy, tensors = io.BytesIO(), io.BytesIO()
    np.save(npy, np.zeros((2, 72)))
    torch.save({name: torch.as_tensor(value) for name, value in plain.items()}, tensors)
    return [
        npz(np.savez, one), npz(np.savez_compressed, amass), pickle.dumps(one, 2), pickle.dumps(one, 4),
        zlib.compress(pickle.dumps(one)), json.dumps(plain).encode(), npy.getvalue(), tensors.getvalue(),
        npz(np.savez, {"poses": np.array(one, object), "names": np.array(["a", None], object)}),
    ]  # fmt: skip


def _read_state(path: Path) -> object:
    from hmr_skel.train.state import load_state

    return load_state(path)


def _states() -> list[bytes]:
    from hmr_skel.train.state import FORMAT

    numbers = {"step": 3, "skipped_steps": 0, "skipped_samples": 0, "seconds": 1.5, "rows": 7}
    tensors = {"a": torch.zeros(2, 3)}
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {"format": FORMAT, **numbers, "recipe": {"name": "tiny"}, "model": tensors, "ema": tensors}
    file = io.BytesIO()
    torch.save(content | {"optimizer": optimizer}, file)
    return [file.getvalue()]


def _read_log(path: Path) -> object:
    from hmr_skel.train.log import keep_until, read_log

    keep_until(path, 2)
    return read_log(path)


def _logs() -> list[bytes]:
    return [b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25, "epoch": 1.0}\n{"step": 3}\n']


def _read_benchmark(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        from hmr_skel.evaluate.benchmarks import BENCHMARKS
        from hmr_skel.evaluate.labels import load_rows

        return load_rows(BENCHMARKS[name], path)

    return read


def _benchmark_files(name: str) -> Callable[[], list[bytes]]:
    def files() -> list[bytes]:
        rows = 2
        names = np.array([f"a/{i}.jpg" for i in range(rows)])
        boxes = {"center": np.full((rows, 2), 100.0), "scale": np.full((rows, 2), 200.0)}
        points = {"body_keypoints_2d": np.ones((rows, 25, 3)), "extra_keypoints_2d": np.ones((rows, 19, 3)),
                  "body_keypoints_3d": np.ones((rows, 25, 4)),
                  "extra_keypoints_3d": np.ones((rows, 19, 4))}  # fmt: skip
        smpl = {"global_orient": np.zeros((rows, 3)), "body_pose": np.zeros((rows, 69)), "betas": np.zeros((rows, 10))}
        arrays = {
            "camerahmr": {
                "imgname": names, "center": boxes["center"], "scale": np.ones(rows), "pose_cam": np.zeros((rows, 72)),
                "shape": np.zeros((rows, 10)), "gender": np.array(["m", "f"]),
                "cam_int": np.tile(np.eye(3), (rows, 1, 1)),
            },
            "hmr2": {"imgname": names.astype(object), **boxes, **points},
            "moyo": {"img_paths": names, "centers": boxes["center"], "scales": boxes["scale"],
                     "smpl": np.array(smpl, object)},
        }[name]  # fmt: skip
        return [npz(np.savez, arrays), npz(np.savez_compressed, arrays)]

    return files


def _read_boxes(path: Path) -> object:
    from hmr_skel.predict.box_files import load_boxes

    kinds = {b"P": ".npz", b"[": ".json", b"{": ".json"}
    kind = kinds.get(path.read_bytes()[:1], ".csv")
    return load_boxes(path.rename(path.with_suffix(kind)), 1.2)


def _boxes() -> list[bytes]:
    arrays = {"imgname": np.array(["a.jpg", "b.jpg"]), "boxes": np.array([[0.0, 0, 9, 9], [1, 1, 5, 6]])}
    labels = arrays | {"center": np.full((2, 2), 50.0), "scale": np.ones(2), "cam_int": np.tile(np.eye(3), (2, 1, 1))}
    del labels["boxes"]
    return [
        npz(np.savez, arrays), npz(np.savez_compressed, labels),
        b'{"a.jpg": [[0, 0, 9, 9], [1, 1, 5, 6]]}',
        b'[{"image": "a.jpg", "box": [0, 0, 9, 9], "frame": 3, "focal": 900}]',
        b"image,x1,y1,x2,y2,frame,score\na.jpg,0,0,9,9,1,0.5\nb.jpg,1,1,5,6,,\n",
    ]  # fmt: skip


def _read_predictions(path: Path) -> object:
    from hmr_skel.evaluate.labels import BenchmarkRows
    from hmr_skel.two_stage import read_predictions

    names = np.array(["0.jpg", "1.jpg"], object)
    ones = np.ones(2, np.float32)
    rows = BenchmarkRows(np.arange(2), names, np.ones((2, 2), np.float32), ones, ones)
    return read_predictions(path, rows, names, None)


def _predictions() -> list[bytes]:
    arrays = {"pose": np.zeros((2, 72)), "betas": np.zeros((2, 10)), "imgname": np.array(["1.jpg", "0.jpg"])}
    return [npz(np.savez, arrays), pickle.dumps(arrays, 2), pickle.dumps(arrays | {"gender": "female"}, 4)]


def _read_regressor(path: Path) -> object:
    from hmr_skel.body.assets import load_regressor

    return load_regressor(path, 2)


def _regressors() -> list[bytes]:
    file = io.BytesIO()
    np.save(file, np.zeros((2, 10), np.float32))
    return [file.getvalue()]


OF_NETWORKS = (
    Target("networks", ".safetensors", _read_network, _network_files),
    Target("published checkpoints", ".pth", _read_checkpoint, _checkpoints),
    Target("training states", ".pt", _read_state, _states),
    Target("training logs", ".jsonl", _read_log, _logs),
    Target("mean poses", ".npz", _read_mean, _mean_files),
    Target("regressors", ".npy", _read_regressor, _regressors),
    Target("benchmarks of CameraHMR", ".npz", _read_benchmark("emdb"), _benchmark_files("camerahmr")),
    Target("benchmarks of 4D-Humans", ".npz", _read_benchmark("coco"), _benchmark_files("hmr2")),
    Target("benchmarks of HSMR", ".npz", _read_benchmark("moyo"), _benchmark_files("moyo")),
    Target("predictions", ".bin", _read_predictions, _predictions),
    Target("boxes", ".bin", _read_boxes, _boxes),
    Target("images", ".img", _read_image, _images),
    Target("motions to convert", ".bin", _read_motion, _motions),
)
"""Of what is trained, evaluated and converted."""
