"""Files in the layouts of public tools, each made of people whose parameters are known.

A maker takes people, as `walk` makes them, and returns what the tool would write: nested dicts, lists or arrays.
`write` puts that into a file.
"""

import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from tests.convert.conftest import FRAMES

Truth = dict[str, np.ndarray]


def write(content: object, path: Path) -> Path:
    """As .pkl, by joblib; dicts of arrays as .npz, where one is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    elif path.suffix == ".pt":
        torch.save(content, path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(content, default=lambda array: array.tolist()))
    else:
        joblib.dump(content, path)
    return path


def matrices(rotvec: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(rotvec.reshape(-1, 3)).as_matrix().reshape(*rotvec.shape, 3).astype(np.float32)


def amass(truth: dict[str, np.ndarray], **changes) -> dict[str, np.ndarray]:
    poses = np.full((len(truth["pose"]), 156), 0.1)
    poses[:, :66] = truth["pose"][:, :22].reshape(-1, 66)
    arrays = {
        "trans": truth["transl"],
        "gender": np.array("male"),
        "mocap_framerate": np.array(120.0),
        "betas": truth["betas"],
        "dmpls": np.zeros((len(poses), 8)),
        "poses": poses,
    }
    return {key: value for key, value in (arrays | changes).items() if value is not None}


def labels(truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    count = len(truth["pose"])
    return {
        "imgname": np.array([f"walk/{8 * i:06d}.jpg" for i in range(count)]),
        "center": np.full((count, 2), 300.0),
        "scale": np.ones(count),
        "pose_cam": truth["pose"].reshape(count, 72),
        "shape": np.tile(truth["betas"][:10], (count, 1)),
        "trans_cam": truth["transl"],
        "cam_int": np.tile(np.eye(3), (count, 1, 1)),
    }


def phalp(truth: dict[str, np.ndarray]) -> dict[str, dict]:
    """What PHALP's tracker writes: two people, the second seen from frame 4 on, a shot that begins at frame 6."""
    mats = matrices(truth["pose"])
    frames = {}
    for i in range(FRAMES):
        person = {"global_orient": mats[i, :1], "body_pose": mats[i, 1:], "betas": truth["betas"][:10].astype("f4")}
        ids = [1] if i < 4 else [1, 2]
        frames[f"out/{i:06d}.jpg"] = {
            "time": i,
            "shot": int(i == 6),
            "frame_path": f"out/{i:06d}.jpg",
            "tid": ids,
            "tracked_ids": ids,
            "tracked_time": [0] * len(ids) if i != 9 else [0, 1],
            "bbox": [np.ones(4)] * len(ids),
            "smpl": [person] * len(ids),
            "camera": [truth["transl"][i].astype("f4")] * len(ids),
            "conf": [np.float32(0.9)] * len(ids),
            "mask": [[{"size": [4, 4], "counts": b"abc"}]] * len(ids),
            "appe": [np.zeros(4096, "f4")] * len(ids),
        }
    return frames


def regressed(truth: dict[str, np.ndarray]) -> dict:
    """What HMR2 and TokenHMR return for a batch."""
    mats = torch.from_numpy(matrices(truth["pose"]))
    betas = torch.from_numpy(np.tile(truth["betas"][:10], (FRAMES, 1)).astype("f4"))
    return {
        "pred_cam": torch.ones(FRAMES, 3),
        "pred_smpl_params": {"global_orient": mats[:, :1], "body_pose": mats[:, 1:], "betas": betas},
        "pred_cam_t": torch.from_numpy(truth["transl"].astype("f4")),
        "pred_vertices": torch.zeros(FRAMES, 5, 3),
    }


def columns(truth: Truth) -> dict[str, np.ndarray]:
    """root, body [T 69], betas [T 10], trans; float32, flat."""
    count = len(truth["pose"])
    return {
        "pose": truth["pose"].reshape(count, 72).astype("f4"),
        "root": truth["pose"][:, 0].astype("f4"),
        "body": truth["pose"][:, 1:].reshape(count, 69).astype("f4"),
        "betas": np.tile(truth["betas"][:10], (count, 1)).astype("f4"),
        "trans": truth["transl"].astype("f4"),
    }


def wham(incam: Truth, world: Truth) -> dict[int, dict]:
    """demo.py: a dict per person; the second was not seen in frames 6 to 9."""
    c, w = columns(incam), columns(world)
    one = {key: c[key] for key in ("pose", "trans", "betas")} | {"pose_world": w["pose"], "trans_world": w["trans"]}
    ids = np.arange(FRAMES)
    return {
        0: one | {"verts": np.zeros((FRAMES, 6890, 3), "f4"), "frame_ids": ids},
        3: one | {"verts": np.zeros((FRAMES, 6890, 3), "f4"), "frame_ids": ids + 4 * (ids >= 6)},
    }


def tram(truth: Truth) -> dict:
    """HMR_VIMO.inference: tensors, rotation matrices, translations [T 1 3], and the frames."""
    count = len(truth["pose"])
    return {
        "pred_cam": torch.ones(count, 3),
        "pred_pose": torch.zeros(count, 144),
        "pred_shape": torch.tensor(columns(truth)["betas"]),
        "pred_rotmat": torch.tensor(matrices(truth["pose"])),
        "pred_trans": torch.tensor(columns(truth)["trans"])[:, None],
        "frame": torch.arange(count) + 7,
    }


def gvhmr(incam: Truth, world: Truth) -> dict:
    def params(truth: Truth) -> dict:
        c = columns(truth)
        return {"global_orient": c["root"], "body_pose": c["body"][:, :63], "betas": c["betas"], "transl": c["trans"]}

    return {"smpl_params_global": params(world), "smpl_params_incam": params(incam), "K_fullimg": np.zeros((12, 3, 3))}


def prompthmr(incam: Truth, world: Truth) -> dict:
    """results.pkl: SMPL-X in two frames, a dict per track."""

    def params(truth: Truth) -> dict:
        c = columns(truth)
        pose = np.concatenate((c["pose"][:, :66], np.zeros((len(c["pose"]), 99), "f4")), 1)
        return {"pose": pose, "shape": c["betas"], "trans": c["trans"]}

    track = {"frames": np.arange(FRAMES), "track_id": 1, "smplx_cam": params(incam), "smplx_world": params(world)}
    return {"camera": {"img_focal": 900.0}, "people": {1: track}, "camera_world": {"Rwc": np.zeros((FRAMES, 3, 3))}}


def slahmr(*people: Truth) -> dict:
    """world_results.npz: people first; the last frame of each is masked."""
    mask = np.ones((len(people), FRAMES), bool)
    mask[:, -1] = False
    each = [columns(truth) for truth in people]
    return {
        "trans": np.stack([c["trans"] for c in each]),
        "root_orient": np.stack([c["root"] for c in each]),
        "pose_body": np.stack([c["body"][:, :63] for c in each]),
        "betas": np.stack([truth["betas"] for truth in people]),
        "track_mask": mask,
        "floor_plane": np.zeros((1, 3)),
        "world_scale": np.ones((1, 1)),
        "cam_R": np.tile(np.eye(3), (len(people), FRAMES, 1, 1)),
    }


def romp(*people: Truth, drop: tuple[int, ...] = ()) -> dict:
    """A dict of one image's outputs per image; the last person is not in the first two images, nobody in `drop`.

    Images without anybody are left out, as ROMP does.
    """
    each = [columns(truth) for truth in people]
    images = {}
    for i in (i for i in range(FRAMES) if i not in drop):
        there = each if i > 1 or len(each) == 1 else each[:-1]
        images[f"{i:08d}.png"] = {
            "cam": np.ones((len(there), 3), "f4"),
            "smpl_thetas": np.stack([c["pose"][i] for c in there]),
            "smpl_betas": np.stack([c["betas"][i] for c in there]),
            "cam_trans": np.stack([c["trans"][i] for c in there]),
            "global_orient": np.stack([c["root"][i] for c in there]),
            "body_pose": np.stack([c["body"][i] for c in there]),
            "track_ids": np.arange(len(there)) + 1,
        }
    return images


def nlf(*people: Truth) -> dict:
    """A list per key, with an entry per image, of as many rows as people: the last person is in every second image."""
    each = [columns(truth) for truth in people]

    def lists(key: str) -> list:
        return [torch.tensor(np.stack([c[key][i] for c in each[: len(each) - i % 2]])) for i in range(FRAMES)]

    joints = [torch.zeros(len(people) - i % 2, 24, 3) for i in range(FRAMES)]
    return {"pose": lists("pose"), "betas": lists("betas"), "trans": lists("trans"), "joints3d": joints}


def emdb(truth: Truth) -> dict:
    c, good = columns(truth), np.ones(FRAMES, bool)
    good[3:5] = False
    return {
        "gender": "female",
        "name": "P1_14_outdoor_climb",
        "n_frames": FRAMES,
        "good_frames_mask": good,
        "camera": {"intrinsics": np.eye(3), "extrinsics": np.tile(np.eye(4), (FRAMES, 1, 1))},
        "smpl": {"poses_root": c["root"], "poses_body": c["body"], "trans": c["trans"], "betas": truth["betas"][:10]},
    }


def threedpw(*people: Truth) -> dict:
    each = [columns(truth) for truth in people]
    return {
        "poses": [c["pose"] for c in each],
        "betas": [truth["betas"][:10] for truth in people],
        "trans": [c["trans"] for c in each],
        "genders": ["m", "f"][: len(people)],
        "sequence": "walk",
        "poses_60Hz": [np.repeat(c["pose"], 2, 0) for c in each],
        "trans_60Hz": [np.repeat(c["trans"], 2, 0) for c in each],
        "campose_valid": [np.ones(FRAMES) for _ in each],
        "cam_poses": np.tile(np.eye(4), (FRAMES, 1, 1)),
        "img_frame_ids": np.arange(FRAMES) * 2,
        "v_template_clothed": [np.zeros((6890, 3)) for _ in each],
    }


def easymocap(truth: Truth) -> dict:
    """The root's turn is Rh, about the origin; `transl` is then `Th`."""
    c = columns(truth)
    rest = c["pose"].copy()
    rest[:, :3] = 0
    return {"poses": rest, "shapes": c["betas"][:1], "Rh": c["root"], "Th": c["trans"]}


def aist(truth: Truth) -> dict:
    c = columns(truth)
    return {"smpl_poses": c["pose"], "smpl_scaling": np.array([93.0]), "smpl_trans": 93 * c["trans"], "smpl_loss": 1.0}


def bedlam(incam: Truth, world: Truth) -> dict[str, Any]:
    """Labels relative to a camera that moved by (1, 2, 3) m."""
    c, w = columns(incam), columns(world)
    camera = np.tile(np.eye(4), (FRAMES, 1, 1))
    camera[:, :3, 3] = [1, 2, 3]
    return {
        "imgname": np.array([f"seq_000000/seq_000000_{5 * i:04d}.png" for i in range(FRAMES)]),
        "center": np.full((FRAMES, 2), 300.0),
        "scale": np.ones(FRAMES),
        "pose_cam": c["pose"],
        "pose_world": w["pose"],
        "shape": np.concatenate((c["betas"], np.zeros((FRAMES, 1), "f4")), 1),
        "trans_cam": c["trans"] - camera[:, :3, 3],
        "trans_world": w["trans"],
        "cam_ext": camera,
        "gender": np.array(["female"] * FRAMES),
    }


def glamr(incam: Truth, world: Truth) -> dict:
    """A sequence's _seed1.pkl: the root's places and turns in both frames; the person is there from frame 2 on."""
    c, w = columns(incam), columns(world)
    person = {
        "smpl_pose": c["body"],
        "smpl_beta": c["betas"],
        "smpl_orient_cam": c["root"],
        "smpl_orient_world": w["root"],
        "root_trans_cam": c["trans"],
        "root_trans_world": w["trans"],
        "exist_frames": np.arange(FRAMES) > 1,
        "frames": np.arange(FRAMES),
        "scale": None,
    }
    return {"person_data": {0: person}, "cam_pose": np.tile(np.eye(4), (FRAMES, 1, 1)), "seq_len": FRAMES}


def hybrik(truth: Truth) -> dict:
    """demo_video.py: lists with an entry per image, rotation matrices flat."""
    c, mats = columns(truth), matrices(truth["pose"]).reshape(-1, 216)
    lists = {"pred_thetas": mats, "pred_betas": c["betas"], "transl": c["trans"] + 1, "pred_cam_root": c["trans"]}
    return {key: list(value) for key, value in lists.items()} | {"img_path": [f"{i:06d}.jpg" for i in range(FRAMES)]}


def interhuman(*people: Truth) -> dict:
    each = [columns(truth) for truth in people]
    return {"mocap_framerate": 59.94, "frames": FRAMES} | {
        f"person{i + 1}": {
            "trans": c["trans"],
            "root_orient": c["root"],
            "pose_body": c["body"][:, :63],
            "pose_hand": np.full((FRAMES, 90), 0.1),
            "betas": c["betas"][0],
            "gender": "male",
        }
        for i, c in enumerate(each)
    }


def vibe(truth: Truth, ids: np.ndarray) -> dict[int, dict]:
    """demo.py: weak cameras and no translation."""
    c = columns(truth)
    weak = {"pred_cam": np.ones((FRAMES, 3), "f4"), "orig_cam": np.ones((FRAMES, 4), "f4")}
    more = {"verts": np.zeros((FRAMES, 5, 3), "f4"), "joints3d": np.zeros((FRAMES, 49, 3), "f4"), "frame_ids": ids}
    return {1: weak | {"pose": c["pose"], "betas": c["betas"]} | more}


def regressor_labels(truth: Truth, annotated: np.ndarray, whole: bool) -> dict[str, np.ndarray]:
    """SPIN's labels (`whole`), and those of 4D-Humans; rows without an annotation hold zeros."""
    c, has = columns(truth), annotated.astype("f4")
    names = {key: labels(truth)[key] for key in ("imgname", "center", "scale")}
    if whole:
        return names | {"pose": c["pose"] * has[:, None], "shape": c["betas"] * has[:, None], "has_smpl": has}
    flags = {"has_body_pose": has, "has_betas": has}
    apart = {"global_orient": c["root"], "body_pose": c["body"], "betas": c["betas"]}
    return names | {key: value * has[:, None] for key, value in apart.items()} | flags


def codec(truth: Truth, version: int = 0) -> dict[str, np.ndarray]:
    """smplcodec's arrays, of SMPL (0) or SMPL-X (2)."""
    head = {"codecVersion": 2, "smplVersion": version, "gender": 2, "frameCount": FRAMES, "frameRate": 30.0}
    motion = {"bodyTranslation": truth["transl"], "bodyPose": truth["pose"][:, : 22 if version else 24]}
    hands = {f"{side}HandPose": np.full((FRAMES, 15, 3), 0.1) for side in ("left", "right")} if version else {}
    face = {"headPose": np.zeros((FRAMES, 3, 3))} if version else {}
    arrays = {"shapeParameters": truth["betas"][:10]} | motion | hands | face
    return {key: np.array(value) for key, value in (head | arrays).items()}


def amass_smplx(truth: Truth, **more) -> dict[str, np.ndarray]:
    count = len(truth["pose"])
    pose = np.concatenate((truth["pose"][:, :22].reshape(count, 66), np.zeros((count, 99))), 1)
    return {
        "poses": pose, "trans": truth["transl"], "betas": truth["betas"], "gender": np.array("neutral"),
        "surface_model_type": np.array("smplx"), "mocap_frame_rate": np.array(30.0),
    } | more  # fmt: skip


def frame_files(truth: Truth, kind: str) -> dict[str, dict]:
    """A file per frame, as SMPLify-X's writer has them: what its camera and its body model hold, of one row each.

    SMPLify-X moves the camera, and the fixed cameras of EgoBody (SMPL here) and PROX (SMPL-X) leave that to the body.
    RICH's files have no camera, and hands of 12 components as PROX's.
    """
    c, files = columns(truth), {}
    for i in range(FRAMES):
        rows = {
            "global_orient": c["root"][i],
            "betas": c["betas"][i],
            "body_pose": c["body"][i],
            "transl": c["trans"][i],
        }
        camera = {"camera_rotation": np.eye(3, dtype="f4"), "camera_translation": np.zeros(3, "f4")}
        if kind in ("PROX", "RICH"):
            zeros = {f"{name}_pose": np.zeros(3, "f4") for name in ("jaw", "leye", "reye")}
            hands = {f"{side}_hand_pose": np.full(12, 0.1, "f4") for side in ("left", "right")}
            rows |= zeros | hands | {"expression": np.zeros(10, "f4"), "body_pose": c["body"][i, :63]}
        if kind == "SMPLify-X":
            camera["camera_translation"] = rows.pop("transl")
        if kind != "RICH":
            rows |= camera | {"pose_embedding": np.zeros(32, "f4")}
        name = f"{i + 3:05d}/001.pkl" if kind == "RICH" else f"results/frame_{i + 3:05d}/000.pkl"
        files[name] = {key: value[None] for key, value in rows.items()} | (
            {"gender": "female"} if kind == "EgoBody" else {}
        )
    return files


def easymocap_files(truth: Truth) -> dict[str, list]:
    """A list of people per frame."""
    arrays = easymocap(truth)
    row = [{key: value[min(i, len(value) - 1)][None] for key, value in arrays.items()} for i in range(FRAMES)]
    return {f"smpl/{i:06d}.json": [{"id": 4, **row[i]}] for i in range(FRAMES)}


def skel_labels(q: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    c = columns(truth)
    return {"imgname": labels(truth)["imgname"], "skel_poses": q, "skel_betas": c["betas"], "skel_trans": c["trans"]}


def hsmr(q: np.ndarray, truth: Truth) -> dict[str, np.ndarray]:
    c = columns(truth)
    return {"poses": q, "betas": c["betas"], "patch_cam_t": c["trans"] + 1, "full_cam_t": c["trans"]}
