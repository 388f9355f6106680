"""Moves bones until they lie inside the skin, at rest and in many postures of many people. Metres, radians.

First each bone is moved, turned and scaled as a whole, which keeps its form; what still sticks out is then pushed in,
spread over its neighbourhood so that bones bend rather than dent. Joint centres and the bones' frames stay.
"""

import pickle
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_matrix, identity
from scipy.spatial import KDTree

from hmr_skel.body.assets import SKEL_FILES, SMPL_FILES
from hmr_skel.body.inside import MARGIN, on_skin, winding_number
from hmr_skel.body.lbs import bone_transforms
from hmr_skel.body.open_body.export import skel_file, smpl_file
from hmr_skel.body.open_body.unpack import SKEL_GENDERS, OpenBody
from hmr_skel.body.skel import Skel
from hmr_skel.body.skel_shape import bone_scales
from hmr_skel.body.smpl import Smpl
from hmr_skel.open_data.motion import clip_motion, clip_rng
from hmr_skel.open_data.retarget import converted_betas
from tools.open_body.bone_placement import PlacedBones
from tools.open_body.skeleton import MIRROR_SKIN

SEED = 5
ROUNDS = ((8, 12), (8, 36))
"""Rounds and people: of moving whole bones, then of pushing."""
REST_DEPTH, DEPTH = 0.003, 0.001
"""Depth below the skin that is aimed at: at rest and elsewhere."""
LONGEST_PUSH = 0.015
LET_GO = 0.03
"""Share of people whose posture may push a vertex out: its worst ones do not count, as few bodies do not decide."""
STIFFNESS = 0.03
"""Weight of "stay" against "move in" for whole bones."""
THIN = 2
"""Every second vertex is looked at, in turns."""
NODE_SPACING, PUSH_RADIUS = 0.01, 0.03
FORGET_AFTER = 4
"""Rounds after which it is asked anew which vertices lie in the overlap of two parts of the body."""


@dataclass(frozen=True)
class Crowd:
    """S posed people; the first is the mean body at rest."""

    skins: np.ndarray  # [S V 3]
    transforms: np.ndarray  # [S 24 3 4] of the joints, from the person's T-pose
    frames: np.ndarray  # [S 24 3 3] bone frame to T-pose, scaled to the person
    joints: np.ndarray  # [S 24 3] T-pose

    def posing(self, person: int, joint: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Matrices [K 3 3] and shifts [K 3] that take bone vertices from the mean T-pose to the posed person."""
        turn = np.einsum("kj,jab->kab", weights, self.transforms[person])
        matrix = turn[:, :, :3] @ (self.frames[person] @ np.linalg.inv(self.frames[0]))[joint]
        start = np.einsum("kab,kb->ka", turn[:, :, :3], self.joints[person][joint]) + turn[:, :, 3]
        return matrix, start - np.einsum("kab,kb->ka", matrix, self.joints[0][joint])


def push_inside(body: OpenBody, placed: PlacedBones) -> OpenBody:
    """The body with its male and female bones inside; `placed` says which bones there are."""
    genders = dict(body.genders)
    own = np.flatnonzero(placed.mirrors == np.arange(len(placed.mirrors)))  # the left ones follow
    rows = np.searchsorted(own, placed.mirrors)
    left = (placed.mirrors != np.arange(len(rows)))[:, None, None]
    for gender in SKEL_GENDERS:
        people = draw_crowd(body, gender)
        frames, joints = people.frames[0][body.bone_joint], people.joints[0][body.bone_joint]
        rest = np.einsum("kab,kb->ka", frames, body.genders[gender].bone_vertices) + joints
        moved = settle(rest[own], people, body.faces, placed.joint[own], placed.weights[own], placed.part[own])
        both = (np.where(left, MIRROR_SKIN, np.eye(3)) @ moved[rows][:, :, None])[:, :, 0]
        local = np.linalg.solve(frames, (both - joints)[:, :, None])[:, :, 0]
        genders[gender] = replace(body.genders[gender], bone_vertices=local)
    return replace(body, genders=genders)


def draw_crowd(body: OpenBody, gender: str) -> Crowd:
    """People and postures as the default set has them."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in (SKEL_FILES[gender], SMPL_FILES["neutral"])]
        files = skel_file(body, body.genders[gender]), smpl_file(body, body.genders["neutral"])
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(pickle.dumps(content))
        skel, smpl = Skel.load(paths[0], dtype=torch.float64), Smpl.load(paths[1], dtype=torch.float64)
    rng, count = np.random.default_rng(SEED), max(people for _, people in ROUNDS)
    clips = [clip_motion(clip_rng(SEED, clip), clip, 1).q for clip in range(count)]
    q = torch.from_numpy(np.stack([clip[rng.integers(len(clip))] for clip in clips]))
    betas = converted_betas(torch.from_numpy(rng.standard_normal((count, 10))), smpl, skel)
    q[0], betas[0] = 0, 0
    shape = skel.prepare_shape(betas)
    posed = skel.pose(q, shape, torch.zeros(count, 3, dtype=q.dtype))
    transforms = bone_transforms(posed.joint_frames @ shape.bone_rotmat.mT, posed.joints, shape.joints)
    scales = bone_scales(shape.offsets, skel.apose_offset, shape.rest, skel.template)
    frames = shape.bone_rotmat * scales.unsqueeze(-2)
    return Crowd(*(array.numpy() for array in (posed.vertices, transforms, frames, shape.joints)))


def settle(
    points: np.ndarray, people: Crowd, faces: np.ndarray, joint: np.ndarray, weights: np.ndarray, part: np.ndarray
) -> np.ndarray:
    """Bone vertices [K 3] of the mean T-pose, moved inside. `part` [K]: bones that are moved as one."""
    for whole, (rounds, count) in zip((True, False), ROUNDS, strict=True):
        posing = [people.posing(person, joint, weights) for person in range(count)]
        for number in range(rounds):
            if number % FORGET_AFTER == 0:
                overlap = np.full((count, len(points)), np.nan)
            some = np.arange(number % THIN, len(points), THIN)
            height, inwards = np.full((count, len(points)), -np.inf), np.zeros((count, len(points), 3))
            for person, (matrix, shift) in enumerate(posing):
                skin = people.skins[person]
                posed = np.einsum("kab,kb->ka", matrix[some], points[some]) + shift[some]
                height[person, some], normal = on_skin(posed, skin, faces)
                inwards[person, some] = -np.einsum("kba,kb->ka", matrix[some], normal)
                asked = (height[person, some] > 0) & np.isnan(overlap[person, some])
                overlap[person, some[asked]] = winding_number(posed[asked], skin, faces) > 0.5
            height[(height > 0) & (overlap == 1)] = -np.inf
            outside = height[:, some] > MARGIN
            print(f"bones: {100 * outside.mean():.2f} % outside, at rest {100 * outside[0].mean():.2f} %", flush=True)
            push = (height + np.where(np.arange(count) == 0, REST_DEPTH, DEPTH)[:, None]).clip(0, LONGEST_PUSH)
            push[1:][push[1:] > np.sort(push[1:], 0)[-1 - int(LET_GO * count)]] = 0
            share = push**2 / np.maximum((push**2).sum(0), 1e-12)
            wanted = np.einsum("sk,skc->kc", share * push, inwards)
            pushed = share.sum(0).round()
            points = points + (whole_moves(points, wanted, pushed, part) if whole else spread(points, wanted, pushed))
    return points


def whole_moves(points: np.ndarray, wanted: np.ndarray, pushed: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Moves [K 3] that are one affine map for each part: the nearest to the `wanted` ones where `pushed` [K] is 1."""
    moves = np.empty_like(points)
    for name in np.unique(part):
        own = part == name
        arm = points[own] - points[own].mean(0)
        design = np.c_[np.ones(len(arm)), arm / np.sqrt((arm**2).sum(1).mean())]
        moment = design.T @ (pushed[own, None] * design) + STIFFNESS * len(arm) * np.eye(4)
        moves[own] = design @ np.linalg.solve(moment, design.T @ (pushed[own, None] * wanted[own]))
    return moves


def spread(points: np.ndarray, wanted: np.ndarray, pushed: np.ndarray) -> np.ndarray:
    """Moves [K 3]: `wanted` where `pushed` [K] is 1, averaged over the neighbourhood and faded out around it."""
    # Over nodes, the centres of small cubes, and carried back to the points.
    cube = np.unique(np.round(points / NODE_SPACING).astype(int), axis=0, return_inverse=True)[1].reshape(-1)
    members = csr_matrix((np.ones(len(cube)), (cube, np.arange(len(cube)))))
    size = np.asarray(members.sum(1))
    nodes = members @ points / size
    near = KDTree(nodes).sparse_distance_matrix(KDTree(nodes), PUSH_RADIUS, output_type="coo_matrix").tocsr()
    near.data = np.square(1 - np.square(near.data / PUSH_RADIUS))
    near = near + identity(len(nodes), format="csr")
    gap, carriers = KDTree(nodes).query(points, k=3)
    carry = 1 / (gap + 0.002)
    carry = carry / carry.sum(1, keepdims=True)
    node_push = members @ (wanted * pushed[:, None]) / np.maximum(members @ pushed, 1e-9)[:, None]
    node_pushed = np.minimum(1, 6 * (members @ pushed) / size[:, 0])
    share = near @ node_pushed
    moves = near @ (node_push * node_pushed[:, None]) / np.maximum(share, 1e-9)[:, None]
    moves = moves * np.minimum(1, 4 * share / np.asarray(near.sum(1)).ravel())[:, None]
    return 0.8 * (carry[:, :, None] * moves[carriers]).sum(1)
