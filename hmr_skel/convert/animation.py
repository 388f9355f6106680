"""Clips as animated `.glb` files: the skeleton as moving rigid bones, the skin as a skinned mesh on the same 24 joints.

Format: glTF 2.0, one buffer. Metres, y up. Joints are nested nodes whose axes are the T-pose's; the animation holds
each joint's rotation in every frame, and the translation of the root and of the joints that move with their angles.
SKEL's pose correctives have no place in a skinned mesh; what this costs is in the file, under the scene's `extras`.
"""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmr_skel.body.joints import SKEL_JOINTS, SKEL_PARENTS
from hmr_skel.body.lbs import bone_transforms, chain, skin
from hmr_skel.body.moving_joints import MOVING_JOINTS, moving_offsets
from hmr_skel.body.skel import Skel
from hmr_skel.body.skel_shape import SkelShape
from hmr_skel.convert.clips import UPRIGHT, SkelClip, require_frame
from hmr_skel.convert.meshes import PARTS
from hmr_skel.data.atomic import replacing
from hmr_skel.opensim.person import RestBody
from hmr_skel.opensim.segments import bone_meshes

_FLOAT, _USHORT, _UINT = 5126, 5123, 5125  # glTF's component types
_KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
_ATTRIBUTES, _INDICES = 34962, 34963  # glTF's targets of buffer views
_MEASURED = 32  # frames whose skin is compared with and without the correctives


def write_animation(clip: SkelClip, skel: Skel, path: Path) -> None:
    """Write a moving clip.

    Raises:
        UserError: the clip's frame is not known, or the file cannot be written.
    """
    turn = UPRIGHT[require_frame(clip.smpl, "a mesh file")]
    person = RestBody.of(skel, clip.betas[0])
    rotations, places = _local_motion(clip, skel, turn)
    file = _Glb()
    material = {name: file.add("materials", _material(name)) for name in PARTS}
    nodes: list[dict[str, Any]] = [
        {"name": name, "translation": offset.tolist(), "children": []}
        for name, offset in zip(SKEL_JOINTS, person.offsets, strict=True)
    ]
    for joint, parent in enumerate(SKEL_PARENTS[1:], 1):
        nodes[parent]["children"].append(joint)
    for joint, (vertices, faces) in bone_meshes(person).items():
        mesh = file.mesh(
            f"{SKEL_JOINTS[joint]}_bone", vertices @ person.bone_rotmat[joint].T, faces, material["skeleton"]
        )
        nodes[joint]["children"].append(len(nodes))
        nodes.append({"name": f"{SKEL_JOINTS[joint]}_bone", "mesh": mesh})

    bind = np.tile(np.eye(4, dtype=np.float32), (24, 1, 1))
    bind[:, 3, :3] = -person.joints  # column by column, as glTF wants matrices
    body = file.add("skins", {"joints": list(range(24)), "inverseBindMatrices": file.array(bind.reshape(24, 16))})
    weights = skel.weights.cpu().numpy()
    mesh = file.mesh("skin", person.rest, skel.faces, material["skin"], weights)
    nodes.append({"name": "skin", "mesh": mesh, "skin": body})

    assert clip.time is not None
    time = file.array((clip.time - clip.time[0]).astype(np.float32)[:, None], bounds=True)
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    for joint in range(24):
        moves = {"rotation": rotations[:, joint]}
        if joint == 0 or joint in MOVING_JOINTS:
            moves["translation"] = places[:, joint]
        for what, values in moves.items():
            channels.append({"sampler": len(samplers), "target": {"node": joint, "path": what}})
            samplers.append({"input": time, "output": file.array(values), "interpolation": "LINEAR"})
    file.add("animations", {"name": clip.name, "samplers": samplers, "channels": channels})
    file.parts["nodes"] = [{key: value for key, value in node.items() if value != []} for node in nodes]
    file.add("scenes", {"nodes": [0, len(nodes) - 1], "extras": _cost_of_correctives(clip, skel)})
    with replacing(path) as temporary:
        temporary.write_bytes(file.content())


@torch.no_grad()
def _local_motion(clip: SkelClip, skel: Skel, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations float32 [N 24 4] (x, y, z, w) and places [N 24 3], m, of each joint against its parent, y up."""
    from scipy.spatial.transform import Rotation

    shape, q = _shape_and_q(clip, skel)
    local = skel.local_rotmat(q, shape).double().cpu().numpy()
    places = (shape.offsets + moving_offsets(q, shape.joints)).double().cpu().numpy()
    local[:, 0] = turn @ local[:, 0]
    places[:, 0] = (places[:, 0] + clip.transl) @ turn.T
    quaternions = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_quat().reshape(-1, 24, 4)
    # Readers take the shorter way between two frames only if both quaternions are on one side.
    flips = np.sign(np.einsum("njk,njk->nj", quaternions[1:], quaternions[:-1]))
    quaternions[1:] *= np.cumprod(np.where(flips < 0, -1, 1), 0)[..., None]
    return quaternions.astype(np.float32), places.astype(np.float32)


@torch.no_grad()
def _cost_of_correctives(clip: SkelClip, skel: Skel) -> dict[str, float]:
    """How far the skin is from SKEL's without the pose correctives: over some frames, mean and largest, mm."""
    rows = np.unique(np.linspace(0, len(clip) - 1, _MEASURED).astype(int))
    shape, q = _shape_and_q(clip.take(rows), skel)
    rotmat, position = chain(skel.local_rotmat(q, shape), shape.offsets + moving_offsets(q, shape.joints), SKEL_PARENTS)
    plain = skin(skel.weights, bone_transforms(rotmat, position, shape.joints), shape.rest)
    apart = 1000 * (skel.pose(q, shape, torch.zeros(3).to(q)).vertices - plain).norm(dim=-1)
    return {"without_correctives_mean_mm": float(apart.mean()), "without_correctives_max_mm": float(apart.max())}


def _shape_and_q(clip: SkelClip, skel: Skel) -> tuple[SkelShape, torch.Tensor]:
    shape = skel.prepare_shape(torch.from_numpy(clip.betas[:1]).to(skel.template))
    return shape, torch.from_numpy(clip.q).to(skel.template)


def _material(name: str) -> dict[str, Any]:
    *rgb, alpha = (value / 255 for value in PARTS[name])
    mode = "BLEND" if alpha < 1 else "OPAQUE"
    surface = {"baseColorFactor": [*rgb, alpha], "metallicFactor": 0.0, "roughnessFactor": 0.8}
    return {"name": name, "pbrMetallicRoughness": surface, "alphaMode": mode}


class _Glb:
    """A glTF file that is being put together: its JSON's lists, and its buffer."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Any]] = {}
        self._bytes = bytearray()

    def add(self, kind: str, value: dict[str, Any]) -> int:
        """The number of the value in its list."""
        self.parts.setdefault(kind, []).append(value)
        return len(self.parts[kind]) - 1

    def array(self, values: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """The number of the accessor of rows [N C]: float32, or unsigned integers as they are."""
        if values.dtype.kind == "f":
            values = values.astype("<f4")
        component = {"f4": _FLOAT, "u2": _USHORT, "u4": _UINT}[values.dtype.str[1:]]
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self._bytes), "byteLength": values.nbytes}
        self._bytes += values.tobytes()
        self._bytes += bytes(-len(self._bytes) % 4)
        accessor: dict[str, Any] = {
            "bufferView": self.add("bufferViews", view | ({} if target is None else {"target": target})),
            "componentType": component, "count": len(values), "type": _KINDS[values.shape[1]],
        }  # fmt: skip
        if bounds:
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        return self.add("accessors", accessor)

    def mesh(
        self, name: str, vertices: np.ndarray, faces: np.ndarray, material: int, weights: np.ndarray | None = None
    ) -> int:
        """The number of a mesh of vertices [V 3] and faces [F 3]; with weights [V 24] it follows a skin's joints."""
        import trimesh

        normals = np.array(trimesh.Trimesh(vertices, faces, process=False).vertex_normals)
        attributes = {
            "POSITION": self.array(vertices, _ATTRIBUTES, bounds=True),
            "NORMAL": self.array(normals, _ATTRIBUTES),
        }
        if weights is not None:
            width = int(-(-(weights > 0).sum(1).max() // 4) * 4)  # four joints to an attribute
            strongest = np.argsort(-weights, axis=1, kind="stable")[:, :width]
            share = np.take_along_axis(weights, strongest, 1)
            share = share / share.sum(1, keepdims=True)
            strongest[share == 0] = 0
            for start in range(0, width, 4):
                part = slice(start, start + 4)
                joints = np.ascontiguousarray(strongest[:, part].astype("<u2"))
                attributes[f"JOINTS_{start // 4}"] = self.array(joints, _ATTRIBUTES)
                attributes[f"WEIGHTS_{start // 4}"] = self.array(np.ascontiguousarray(share[:, part]), _ATTRIBUTES)
        indices = self.array(faces.reshape(-1, 1).astype("<u4"), _INDICES)
        primitive = {"attributes": attributes, "indices": indices, "material": material}
        return self.add("meshes", {"name": name, "primitives": [primitive]})

    def content(self) -> bytes:
        """The file."""
        head = {"asset": {"version": "2.0", "generator": "hmr-skel"}, "scene": 0}
        text = json.dumps(head | self.parts | {"buffers": [{"byteLength": len(self._bytes)}]}).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self._bytes), b"BIN\0") + bytes(self._bytes)
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
