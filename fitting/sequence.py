"""Smooth q of one person over time, after every frame was fitted by itself: where the mesh hardly changes by it.

Per run of frames, over the 43 dofs below the pelvis and within their limits, minimise

    sum_t (q_t - q*_t)^T H_t (q_t - q*_t) + weight * sum_t |third difference of q|^2,

q* the fits and H_t the Gauss-Newton matrix at q* of a frame's mean squared distance of vertices (and, as in the fit,
of joints). A fit lies in a valley: along its floor (a scapula against its humerus, the three twists of the spine) q
jitters from frame to frame while the mesh stands still, and there H_t lets go; what moves the mesh is held. The
matrix has blocks of 43 along seven diagonals, so a run is one banded Cholesky. The weight is lowered in a run until
the mesh moves by no more than `MAX_SHIFT_MM`, whatever was asked for. The root is left as annotated.
"""

import numpy as np
import torch
from torch import Tensor

from fitting.batch import inner_box
from fitting.kinematics import Kinematics, Skeleton
from hmr_skel.body.dofs import BODY, DOF_JOINTS, limits
from hmr_skel.body.joints import SKEL_PARENTS, subtree
from hmr_skel.body.skel import Skel

MAX_SHIFT_MM = 2.0
"""Of the mesh of a run, rms over its vertices and frames. At the distances that fits have (6 to 9 mm) this raises their
mean by 0.2 to 0.4 mm."""

_VERTICES = 150  # stand for all of them in H: about six a bone
_JOINT_WEIGHT = 0.1  # of the mean squared distance of joints beside 1 for that of vertices, as in the fit
_RIDGE = 1e-6  # m^2 per rad^2: a dof that moves nothing stays where it is
_THIRD = (-1.0, 3.0, -3.0, 1.0)  # the third difference
_REFERENCE_RATE = 30.0  # frames a second that `weight` refers to
_JUMP = np.pi / 2  # from one frame to the next; beyond, an arm turned over and nothing is to be smoothed
_ROUNDS = 20  # of finding out which dofs end at a limit; 3 to 5 are usual
_LOWERINGS = 12  # of the weight; 2 to 4 are usual
_ROWS = 128  # whose Jacobians are worked on at once


def smooth(
    q: Tensor,
    betas: Tensor,
    starts: Tensor,
    skel: Skel,
    weight: float | int,
    table: str,
    frame_rate: float | int | None = None,
) -> Tensor:
    """Fitted q [T 46] of one person, smoothed in time.

    Args:
        q: [T 46] rad, float32, without jumps of whole turns; q[:, :3] passes through.
        betas: [T 10] of SKEL.
        starts: bool [T] where a run begins. Nothing couples across it; runs of under four frames stay as they are.
        skel: the body, on any device.
        weight: what one squared degree of third difference costs in mm^2 of mean squared vertex distance, at 30 frames
            a second; 0.1 is a good one. At other rates differences are scaled as a derivative is, so that a weight
            means the same at any rate.
        table: the limits that the fits kept (`hmr_skel.body.dofs.limits`).
        frame_rate: of the frames, a second; 30 if not given.

    Returns:
        [T 46] float32 on the CPU. A dof that was outside its range by whole turns is only bounded by where it was.
        Memory: 60 kB a frame of the longest run.

    Raises:
        ValueError: the weight is negative.
    """
    if weight < 0:
        raise ValueError(f"weight {weight} is negative")
    result = q.cpu().clone()
    bounds = limits(table)[BODY]
    # mm^2 per squared degree to m^2 per squared rad, and to this frame rate.
    stiffness = weight * 1e-6 * (180 / np.pi) ** 2 * ((frame_rate or _REFERENCE_RATE) / _REFERENCE_RATE) ** 6
    starts = starts.cpu().clone()
    starts[1:] |= (result[1:, BODY] - result[:-1, BODY]).abs().amax(1) > _JUMP
    first = starts.nonzero().squeeze(1).tolist()
    for start, stop in zip(first, [*first[1:], len(q)], strict=True):
        if stop - start > 3 and stiffness > 0:
            run = slice(start, stop)
            own = result[run, BODY].double().numpy()
            held = curvature(q[run], betas[run], skel).double().numpy()
            low, high = np.minimum(bounds[:, 0], own), np.maximum(bounds[:, 1], own)
            smoothed = _moderate(own, held, stiffness, low, high, _Mesh(skel, q[run], betas[run])).astype(np.float32)
            inside = (bound.numpy() for bound in inner_box(torch.from_numpy(low), torch.from_numpy(high)))
            result[run, BODY] = torch.from_numpy(np.clip(smoothed, *inside))
    return result


def _moderate(
    own: np.ndarray, held: np.ndarray, stiffness: float, low: np.ndarray, high: np.ndarray, mesh: "_Mesh"
) -> np.ndarray:
    """The minimum [T 43] at the largest weight, up to `stiffness`, at which the mesh stays near; else `own`."""
    ridged = held + _RIDGE * np.eye(own.shape[1])
    allowed = (MAX_SHIFT_MM / 1000) ** 2
    for _ in range(_LOWERINGS):
        smoothed = _within(own, ridged, stiffness, low, high)
        squared = mesh.squared_shift(smoothed)
        if squared <= allowed:
            return smoothed
        # The squared shift grows with the weight, slower than in proportion.
        stiffness *= min(allowed / squared, 0.25)
    return own


class _Mesh:
    """A few vertices of a run, to see how far it moves: where q moves far, H says too little."""

    def __init__(self, skel: Skel, q: Tensor, betas: Tensor) -> None:
        self.skel, self.betas = _thinned(skel), betas.to(skel.template)
        self.own = self._vertices(q[:, BODY])

    def squared_shift(self, body: np.ndarray) -> float:
        """Mean squared distance, m^2, of the vertices at dofs [T 43] from where they were."""
        moved = self._vertices(torch.from_numpy(body)) - self.own
        return float(moved.square().sum(-1).mean())

    def _vertices(self, body: Tensor) -> Tensor:
        full = torch.cat((torch.zeros(len(body), 3), body.cpu()), 1).to(self.betas)
        return self.skel(full, self.betas, torch.zeros(len(body), 3).to(self.betas)).vertices


def curvature(q: Tensor, betas: Tensor, skel: Skel) -> Tensor:
    """H [T 43 43], m^2 per rad^2, on the CPU: J^T J of the mean squared distance of vertices and joints.

    A dof gives the points below its joint one twist, and a skinned vertex is below it with the sum of its weights
    there. Pose correctives are left out of J.
    """
    device = skel.template.device
    few, kinematics = _thinned(skel), Kinematics(skel.axes.double(), skel.dof_index)
    joint, order = torch.tensor(DOF_JOINTS[BODY], device=device), kinematics.dof_order[BODY]
    below = [[float(bone in subtree(SKEL_PARENTS, above)) for bone in range(24)] for above in range(24)]
    below = torch.tensor(below, device=device)  # [joint, bone]
    blocks = []
    for first in range(0, len(q), _ROWS):
        rows = slice(first, first + _ROWS)
        full, shape = q[rows].to(device).double(), betas[rows].to(device)
        full[:, :3] = 0
        skeleton = Skeleton.of(skel, shape)
        pose = kinematics.pose(full, skeleton)
        twist = kinematics.twists(full, skeleton, pose).matrix[:, joint, order].float()  # [B 43 3 4]
        rest = few.template + (shape @ few.shapedirs).unflatten(-1, (-1, 3))
        skinned = pose.transforms.float() @ _homogeneous(rest).mT.unsqueeze(1) * few.weights.mT.unsqueeze(1)
        carried = (below @ skinned.flatten(2)).unflatten(2, skinned.shape[2:])[:, joint]  # [B 43 4 V]
        at_joints = _homogeneous(pose.position.float()).mT.unsqueeze(1) * below[joint].unsqueeze(1)
        vertices = (twist @ carried).flatten(2) / len(few.weights) ** 0.5
        jacobian = torch.cat((vertices, (twist @ at_joints).flatten(2) * (_JOINT_WEIGHT / 24) ** 0.5), 2)
        blocks.append((jacobian @ jacobian.mT).cpu())
    return torch.cat(blocks)


def _homogeneous(points: Tensor) -> Tensor:
    return torch.cat((points, torch.ones_like(points[..., :1])), -1)


def _thinned(skel: Skel) -> Skel:
    """The body with every n-th vertex only, and the joints of the whole one."""
    step = max(len(skel.weights) // _VERTICES, 1)
    return skel.at_vertices(torch.arange(0, len(skel.weights), step, device=skel.weights.device))


def _within(own: np.ndarray, held: np.ndarray, stiffness: float, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The minimum [T 43] between `low` and `high` [T 43]: dofs that leave are put on their limit, and let go again
    where the slope leads back inside."""
    band = _band(held, stiffness)
    right = (held @ own[..., None])[..., 0]
    fixed, value = np.zeros(own.shape, bool), np.zeros(own.shape)
    for _ in range(_ROUNDS):
        solution = _solve(band, right - _times(held, stiffness, value), fixed, value)
        slope = _times(held, stiffness, solution) - right
        over = ~fixed & ((solution < low) | (solution > high))
        inward = fixed & np.where(value <= low, slope < 0, slope > 0)
        if not (over | inward).any():
            break
        fixed = (fixed & ~inward) | over
        value = np.where(fixed, np.clip(solution, low, high), 0.0)
    return np.clip(solution, low, high)


def _solve(band: np.ndarray, right: np.ndarray, fixed: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Minimise over the dofs that are not `fixed`; those take `value`. `band` is the matrix of all dofs."""
    import scipy.linalg

    if fixed.any():
        band, flat = band.copy(), fixed.ravel()
        for below in range(1, len(band)):
            stop = len(flat) - below
            if stop > 0:
                band[below, :stop][flat[:stop] | flat[below:]] = 0.0
        band[0, flat] = 1.0
    reduced = np.where(fixed, value, right).ravel()
    return scipy.linalg.solveh_banded(band, reduced, lower=True, check_finite=False).reshape(right.shape)


def _band(held: np.ndarray, stiffness: float) -> np.ndarray:
    """Lower band [4 * 43, T * 43] of H + stiffness D^T D, as `scipy.linalg.solveh_banded` takes it."""
    count, width = held.shape[:2]
    band = np.zeros((4 * width, count * width))
    for below in range(width):  # entries (i + below, i) of every block
        band[below].reshape(count, width)[:, : width - below] = np.diagonal(held, -below, 1, 2)
    for lag in range(4):
        weights = np.zeros(count)
        for k in range(4 - lag):  # the difference that begins at frame t has _THIRD[k] at t + k
            weights[k : count - 3 + k] += _THIRD[k] * _THIRD[k + lag]
        band[lag * width].reshape(count, width)[:] += stiffness * weights[:, None]
    return band


def _times(held: np.ndarray, stiffness: float, x: np.ndarray) -> np.ndarray:
    """(H + stiffness D^T D) x."""
    product = (held @ x[..., None])[..., 0]
    jerk = stiffness * np.diff(x, 3, axis=0)
    for k, factor in enumerate(_THIRD):
        product[k : k + len(jerk)] += factor * jerk
    return product
