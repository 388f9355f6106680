"""Between a visit to the vertices and the steps after it, lane by lane."""

from typing import NamedTuple

import numpy as np

from fitting.lanes.lanes import LANES, kernel
from fitting.lanes.problem import Local, Part
from fitting.lanes.skeleton import Bones, Posed, Tree
from fitting.surface import CORRECTED


class Corrected(NamedTuple):
    """The joints whose rotations drive pose correctives."""

    joints: np.ndarray  # [S]
    slot: np.ndarray  # [24] a joint's place among them, -1 where it has none


def corrected() -> Corrected:
    slot = np.full(24, -1)
    slot[CORRECTED] = np.arange(len(CORRECTED))
    return Corrected(np.array(CORRECTED), slot)


@kernel
def local_rotation(tree: Tree, posed: Posed, joint: int, out: np.ndarray) -> None:
    """R_parent^T R, [3 3 L]."""
    above, below = posed.rotmat[tree.parents[joint]], posed.rotmat[joint]
    for i in range(3):
        for j in range(3):
            for lane in range(LANES):
                out[i, j, lane] = (
                    above[0, i, lane] * below[0, j, lane] + above[1, i, lane] * below[1, j, lane]
                    + above[2, i, lane] * below[2, j, lane]
                )  # fmt: skip


@kernel
def pose_coefficients(tree: Tree, corrected: Corrected, posed: Posed, out: np.ndarray, transforms: np.ndarray) -> None:
    """What the mesh is made of, float32: local rotations less the identity [9 S, L], and G [24 3 4 L]."""
    local = np.empty((3, 3, LANES))
    for s in range(len(corrected.joints)):
        local_rotation(tree, posed, corrected.joints[s], local)
        for i in range(3):
            for j in range(3):
                rest = 1.0 if i == j else 0.0
                for lane in range(LANES):
                    out[9 * s + 3 * i + j, lane] = local[i, j, lane] - rest
    for m in range(24):
        for i in range(3):
            for j in range(4):
                for lane in range(LANES):
                    transforms[m, i, j, lane] = posed.transforms[m, i, j, lane]


@kernel
def pull_joints(
    weight: np.ndarray, target: np.ndarray, bones: Bones, posed: Posed, energy: np.ndarray, cross: np.ndarray
) -> None:
    """Adds the anatomical joints, each one more point rigid on its bone, of `weight` [24] and `target` [24 3 L]."""
    for j in range(24):
        for i in range(3):
            for lane in range(LANES):
                apart = target[j, i, lane] - posed.position[j, i, lane]
                energy[lane] += weight[j] * apart * apart
                for e in range(3):
                    cross[j, i, e, lane] += weight[j] * apart * bones.joints[j, e, lane]
                cross[j, i, 3, lane] += weight[j] * apart


@kernel
def corrective_tilt(
    tree: Tree, part: Part, corrected: Corrected, posed: Posed, by_rotation: np.ndarray, out: np.ndarray
) -> None:
    """Adds dE/2 over the part's dofs [D L], from dE/2 over the local rotations [9 S, L] of the corrected joints."""
    local, turn = np.empty((3, 3, LANES)), np.empty((3, LANES))
    for s in range(len(corrected.joints)):
        joint = corrected.joints[s]
        local_rotation(tree, posed, joint, local)
        above = posed.rotmat[tree.parents[joint]]
        for i in range(3):  # columns of the rotation cross those of the derivative
            j, k = (i + 1) % 3, (i + 2) % 3
            for lane in range(LANES):
                turn[i, lane] = 0.0
            for e in range(3):
                for lane in range(LANES):
                    turn[i, lane] += (
                        local[j, e, lane] * by_rotation[9 * s + 3 * k + e, lane]
                        - local[k, e, lane] * by_rotation[9 * s + 3 * j + e, lane]
                    )
        for n in range(len(part.dofs)):
            k = part.dofs[n]
            if tree.joint[k] == joint:
                for i in range(3):
                    for e in range(3):  # the axis in the parent's frame
                        for lane in range(LANES):
                            out[n, lane] += posed.axis[k, e, lane] * above[e, i, lane] * turn[i, lane]


@kernel
def learn(
    part: Part, at: Local, q: np.ndarray, last_q: np.ndarray, last_gradient: np.ndarray, vector: np.ndarray,
    scale: np.ndarray,
) -> None:  # fmt: skip
    """`fitting.solver.learned_bend`: what two visits' gradients say of the second derivative that the matrix misses.

    The update s v v^T goes into `vector` [D L] and `scale` [L], and into the curvature.
    """
    size = len(part.dofs)
    along, missed, moved = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for i in range(size):
        for lane in range(LANES):
            vector[i, lane] = at.gradient[i, lane] - last_gradient[i, lane]
        for n in range(size):
            k, place = part.dofs[n], max(i, n) * (max(i, n) + 1) // 2 + min(i, n)
            for lane in range(LANES):
                entry = at.gauss_newton[place, lane] + at.curvature[place, lane]
                vector[i, lane] -= entry * (q[k, lane] - last_q[k, lane])
        for lane in range(LANES):
            move = q[part.dofs[i], lane] - last_q[part.dofs[i], lane]
            along[lane] += vector[i, lane] * move
            missed[lane] += vector[i, lane] * vector[i, lane]
            moved[lane] += move * move
    for lane in range(LANES):
        # Too flat an angle between the two makes the update blow up: such a visit teaches nothing.
        useful = abs(along[lane]) > 1e-2 * np.sqrt(missed[lane]) * np.sqrt(moved[lane])
        scale[lane] = 1.0 / along[lane] if useful else 0.0
    for i in range(size):
        for n in range(i + 1):
            for lane in range(LANES):
                at.curvature[i * (i + 1) // 2 + n, lane] += scale[lane] * vector[i, lane] * vector[n, lane]
