"""The problem without its mesh, lane by lane: energy, gradient and Newton's matrix over the dofs, from moments alone.

With rest vertices held, every skinned vertex is linear in the bone transforms G, so the squared distances are
    E(G) = E_0 + sum_mn tr(D_m M_mn D_n^T) - 2 sum_m tr(D_m B'_m) + prior + tilt and bend,   D = G - G_0,
with the moments taken at G_0. A dof turns the points below its joint by one twist, so gradient and matrix are sums of
M over pairs of subtrees: no vertex is visited, and no Jacobian is formed.

Derivatives are halved throughout. Symmetric matrices over dofs are packed: the entry of dofs i >= k stands at
i (i + 1) / 2 + k. Energies, gradients and curvatures are float64; the Gauss-Newton matrix is summed in float32.
"""

from typing import NamedTuple

import numpy as np

from fitting.lanes.skeleton import glide_curvatures, pose, twists
from fitting.lanes.state import LANES, Record, kernel, part_of_kernels


class Quadratic(NamedTuple):
    """A chunk's quadratic."""

    moments: np.ndarray  # [P 4 4 L] float32, M
    bend: np.ndarray  # [K D L] vectors v of the bend sum_i s_i v_i v_i^T
    scale: np.ndarray  # [K L] s
    reduced: Record  # `REDUCED`: what the visit to the vertices left


def linearise(tree: Record, part: Record, bones: Record, problem: Quadratic, q: np.ndarray, desk: Record) -> None:
    """The problem at q [46 L]."""
    pose(tree, bones, q, desk)
    energy_at(part, problem, q, desk, desk[0]["energy"])
    derive(tree, part, bones, problem, q, desk)


def derive(tree: Record, part: Record, bones: Record, problem: Quadratic, q: np.ndarray, desk: Record) -> None:
    """Its derivatives, where the desk has the pose and `energy_at` was."""
    # Kernels are called from here one by one: within one another they would take minutes to compile.
    twists(tree, bones, q, desk)
    _wrenches(tree, part, desk)
    _gradient(tree, part, problem.bend, problem.scale, q, problem.reduced, desk)
    _sum_moments(part, problem.moments, desk)
    _gauss_newton(tree, part, desk)
    glide_curvatures(bones, q, desk)
    _curvature(tree, part, problem.bend, problem.scale, desk)


def energy_at(part: Record, problem: Quadratic, q: np.ndarray, desk: Record, out: np.ndarray) -> None:
    """E [L] at a pose; leaves its derivative by the transforms, halved, in `force`."""
    _energy(part, problem.moments, problem.bend, problem.scale, q, problem.reduced, desk, out)


@kernel
def _energy(
    part: Record, moments: np.ndarray, bend: np.ndarray, scale: np.ndarray, q: np.ndarray, reduced: Record,
    desk: Record, out: np.ndarray,
) -> None:  # fmt: skip
    part, around, desk = part[0], reduced[0], desk[0]
    moved, force = desk.moved, desk.force
    for i in range(part.num_bones):
        m = part.bones[i]
        for c in range(desk.three):
            for e in range(desk.four):
                for lane in range(LANES):
                    moved[m, c, e, lane] = desk.transforms[m, c, e, lane] - around.start[m, c, e, lane]
                    force[m, c, e, lane] = -around.cross[m, c, e, lane]
    for pair in range(part.num_pairs):
        m, n, matrix = part.first[pair], part.second[pair], moments[pair]
        for c in range(desk.three):
            for e in range(desk.four):
                for lane in range(LANES):
                    force[m, c, e, lane] += (
                        matrix[e, 0, lane] * moved[n, c, 0, lane] + matrix[e, 1, lane] * moved[n, c, 1, lane]
                        + matrix[e, 2, lane] * moved[n, c, 2, lane] + matrix[e, 3, lane] * moved[n, c, 3, lane]
                    )  # fmt: skip
        if m != n:
            for c in range(desk.three):
                for e in range(desk.four):
                    for lane in range(LANES):
                        force[n, c, e, lane] += (
                            matrix[0, e, lane] * moved[m, c, 0, lane] + matrix[1, e, lane] * moved[m, c, 1, lane]
                            + matrix[2, e, lane] * moved[m, c, 2, lane] + matrix[3, e, lane] * moved[m, c, 3, lane]
                        )  # fmt: skip
    for lane in range(LANES):
        out[lane] = around.start_energy[lane]
    for i in range(part.num_bones):
        m = part.bones[i]
        for c in range(desk.three):
            for e in range(desk.four):
                for lane in range(LANES):
                    out[lane] += moved[m, c, e, lane] * (force[m, c, e, lane] - around.cross[m, c, e, lane])
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            shift = q[k, lane] - around.anchor[k, lane]
            out[lane] += part.prior[i] * q[k, lane] * q[k, lane] + 2.0 * around.tilt[i, lane] * shift
    for b in range(len(bend)):
        _along(part, bend[b], q, around, desk)
        for lane in range(LANES):
            out[lane] += scale[b, lane] * desk.along[lane] * desk.along[lane]


@kernel
def anchor(part: Record, q: np.ndarray, reduced: Record, desk: Record) -> None:
    """From here on E counts what the tilt brings from q."""
    part, around, desk = part[0], reduced[0], desk[0]
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            desk.energy[lane] -= 2.0 * around.tilt[i, lane] * (q[k, lane] - around.anchor[k, lane])
    for k in range(46):
        for lane in range(LANES):
            around.anchor[k, lane] = q[k, lane]


@part_of_kernels
def _along(part, vector: np.ndarray, q: np.ndarray, around, desk) -> None:
    """How far q has moved along a vector of the bend."""
    for lane in range(LANES):
        desk.along[lane] = 0.0
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            desk.along[lane] += vector[i, lane] * (q[k, lane] - around.anchor[k, lane])


@kernel
def _wrenches(tree: Record, part: Record, desk: Record) -> None:
    """The wrench on every joint: its subtree's forces F G^T, [3 4] with the sum of forces in the last column."""
    tree, part, desk = tree[0], part[0], desk[0]
    force, wrench = desk.force, desk.wrench
    for m in range(24):
        for c in range(desk.three):
            for e in range(desk.four):
                for lane in range(LANES):
                    wrench[m, c, e, lane] = 0.0
    for n in range(part.num_bones - 1, -1, -1):
        m = part.bones[n]
        for c in range(desk.three):
            for e in range(desk.three):
                for lane in range(LANES):
                    wrench[m, c, e, lane] += (
                        force[m, c, 0, lane] * desk.transforms[m, e, 0, lane]
                        + force[m, c, 1, lane] * desk.transforms[m, e, 1, lane]
                        + force[m, c, 2, lane] * desk.transforms[m, e, 2, lane]
                        + force[m, c, 3, lane] * desk.transforms[m, e, 3, lane]
                    )
            for lane in range(LANES):
                wrench[m, c, 3, lane] += force[m, c, 3, lane]
        above = tree.parents[m]
        for c in range(desk.three):
            for e in range(desk.four):
                for lane in range(LANES):
                    wrench[above, c, e, lane] += wrench[m, c, e, lane]


@kernel
def _gradient(
    tree: Record, part: Record, bend: np.ndarray, scale: np.ndarray, q: np.ndarray, reduced: Record, desk: Record
) -> None:
    tree, part, around, desk = tree[0], part[0], reduced[0], desk[0]
    w, u, out = desk.axis, desk.linear, desk.gradient
    for i in range(part.num_dofs):
        k = part.dofs[i]
        f = desk.wrench[tree.joint[k]]
        for lane in range(LANES):
            turn = (
                w[k, 0, lane] * (f[2, 1, lane] - f[1, 2, lane])
                + w[k, 1, lane] * (f[0, 2, lane] - f[2, 0, lane])
                + w[k, 2, lane] * (f[1, 0, lane] - f[0, 1, lane])
            )
            push = u[k, 0, lane] * f[0, 3, lane] + u[k, 1, lane] * f[1, 3, lane] + u[k, 2, lane] * f[2, 3, lane]
            out[i, lane] = turn + push + part.prior[i] * q[k, lane] + around.tilt[i, lane]
    for b in range(len(bend)):
        _along(part, bend[b], q, around, desk)
        for i in range(part.num_dofs):
            for lane in range(LANES):
                out[i, lane] += scale[b, lane] * desk.along[lane] * bend[b, i, lane]


@kernel
def _sum_moments(part: Record, moments: np.ndarray, desk: Record) -> None:
    """World moments Q_mn = G_m M_mn G_n^T, then sums of them over pairs of subtrees, float32."""
    part, desk = part[0], desk[0]
    sums, half = desk.sums, desk.block
    for slot in range(part.num_slots):
        for c in range(desk.four):
            for e in range(desk.four):
                for lane in range(LANES):
                    sums[slot, c, e, lane] = 0
    for pair in range(part.num_pairs):
        a, b = desk.transforms[part.first[pair]], desk.transforms[part.second[pair]]
        matrix, here, mirrored = moments[pair], part.here[pair], part.mirrored[pair]
        for c in range(desk.three):
            for e in range(desk.four):
                for lane in range(LANES):
                    half[c, e, lane] = (
                        np.float32(a[c, 0, lane]) * matrix[0, e, lane] + np.float32(a[c, 1, lane]) * matrix[1, e, lane]
                        + np.float32(a[c, 2, lane]) * matrix[2, e, lane]
                        + np.float32(a[c, 3, lane]) * matrix[3, e, lane]
                    )  # fmt: skip
        for e in range(desk.four):
            for lane in range(LANES):
                half[3, e, lane] = matrix[3, e, lane]
        for c in range(desk.four):
            for e in range(desk.three):
                for lane in range(LANES):
                    sums[here, c, e, lane] = (
                        half[c, 0, lane] * np.float32(b[e, 0, lane]) + half[c, 1, lane] * np.float32(b[e, 1, lane])
                        + half[c, 2, lane] * np.float32(b[e, 2, lane]) + half[c, 3, lane] * np.float32(b[e, 3, lane])
                    )  # fmt: skip
            for lane in range(LANES):
                sums[here, c, 3, lane] = half[c, 3, lane]
        if here != mirrored:
            for c in range(desk.four):
                for e in range(desk.four):
                    for lane in range(LANES):
                        sums[mirrored, c, e, lane] = sums[here, e, c, lane]
    for n in range(part.num_sums):
        source, target = sums[part.sums[n, 0]], sums[part.sums[n, 1]]
        for c in range(desk.four):
            for e in range(desk.four):
                for lane in range(LANES):
                    target[c, e, lane] += source[c, e, lane]


@kernel
def _gauss_newton(tree: Record, part: Record, desk: Record) -> None:
    """tr(W_k C W_l^T) over the dofs, with W = [[w]x | u] and C the moments of both subtrees; and the prior."""
    tree, part, desk = tree[0], part[0], desk[0]
    w, u, v, out = desk.axis_short, desk.linear_short, desk.block, desk.gauss_newton
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for c in range(3):
            for lane in range(LANES):
                w[k, c, lane] = desk.axis[k, c, lane]
                u[k, c, lane] = desk.linear[k, c, lane]
    for place in range(part.num_dofs * (part.num_dofs + 1) // 2):
        for lane in range(LANES):
            out[place, lane] = 0
    for i in range(part.num_dofs):
        k, met = part.dofs[i], -1
        for n in range(i, part.num_dofs):
            other = part.dofs[n]
            slot, place = part.slots[tree.joint[k], tree.joint[other]], n * (n + 1) // 2 + i
            if slot < 0:
                continue
            if slot != met:  # a new joint: V = W_k C, of which its dofs need five numbers
                met, c = slot, desk.sums[slot]
                for e in range(4):
                    for lane in range(LANES):
                        v[0, e, lane] = (
                            w[k, 1, lane] * c[2, e, lane]
                            - w[k, 2, lane] * c[1, e, lane]
                            + u[k, 0, lane] * c[3, e, lane]
                        )
                        v[1, e, lane] = (
                            w[k, 2, lane] * c[0, e, lane]
                            - w[k, 0, lane] * c[2, e, lane]
                            + u[k, 1, lane] * c[3, e, lane]
                        )
                        v[2, e, lane] = (
                            w[k, 0, lane] * c[1, e, lane]
                            - w[k, 1, lane] * c[0, e, lane]
                            + u[k, 2, lane] * c[3, e, lane]
                        )
            for lane in range(LANES):
                out[place, lane] = (
                    w[other, 0, lane] * (v[2, 1, lane] - v[1, 2, lane])
                    + w[other, 1, lane] * (v[0, 2, lane] - v[2, 0, lane])
                    + w[other, 2, lane] * (v[1, 0, lane] - v[0, 1, lane])
                    + u[other, 0, lane] * v[0, 3, lane]
                    + u[other, 1, lane] * v[1, 3, lane]
                    + u[other, 2, lane] * v[2, 3, lane]
                )
        for lane in range(LANES):
            out[i * (i + 1) // 2 + i, lane] += np.float32(part.prior[i])


@kernel
def _curvature(tree: Record, part: Record, bend: np.ndarray, scale: np.ndarray, desk: Record) -> None:
    """The second derivatives of points times the forces on them: an outer axis cross the inner dof's motion."""
    tree, part, desk = tree[0], part[0], desk[0]
    w, moment, glide, out = desk.axis, desk.moment, desk.glide, desk.curvature
    for place in range(part.num_dofs * (part.num_dofs + 1) // 2):
        for lane in range(LANES):
            out[place, lane] = 0.0
    for i in range(part.num_dofs):  # the inner dof
        k = part.dofs[i]
        j = tree.joint[k]
        f = desk.wrench[j]
        # The columns of W = [[w]x | u] cross those of f: (w x e) x f_e = e (w . f_e) - w (e . f_e), summed over e.
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            for lane in range(LANES):
                trace = f[0, 0, lane] + f[1, 1, lane] + f[2, 2, lane]
                moment[a, lane] = (
                    w[k, 0, lane] * f[0, a, lane] + w[k, 1, lane] * f[1, a, lane] + w[k, 2, lane] * f[2, a, lane]
                    - w[k, a, lane] * trace
                    + desk.linear[k, b, lane] * f[c, 3, lane] - desk.linear[k, c, lane] * f[b, 3, lane]
                )  # fmt: skip
        for n in range(part.num_dofs):  # the outer one: of a joint above, or later in the same
            outer = part.dofs[n]
            above = j
            while above > tree.joint[outer]:
                above = tree.parents[above]
            if above != tree.joint[outer] or (above == j and outer < k):
                continue
            place = max(i, n) * (max(i, n) + 1) // 2 + min(i, n)
            for lane in range(LANES):
                out[place, lane] += (
                    w[outer, 0, lane] * moment[0, lane]
                    + w[outer, 1, lane] * moment[1, lane]
                    + w[outer, 2, lane] * moment[2, lane]
                )
            if above == j:  # a dof does not turn the glide of its own joint
                for a in range(3):
                    b, c = (a + 1) % 3, (a + 2) % 3
                    for lane in range(LANES):
                        out[place, lane] -= w[outer, a, lane] * (
                            desk.velocity[k, b, lane] * f[c, 3, lane] - desk.velocity[k, c, lane] * f[b, 3, lane]
                        )
    for g in range(part.num_gliding):  # that glide is curved itself
        n = part.gliding[g]
        j = tree.moving[n]
        parent, f = desk.rotmat[tree.parents[j]], desk.wrench[j]
        i = 0
        while part.dofs[i] != tree.first[j]:
            i += 1
        for a in range(3):
            for lane in range(LANES):
                towards = (
                    parent[0, a, lane] * f[0, 3, lane] + parent[1, a, lane] * f[1, 3, lane]
                    + parent[2, a, lane] * f[2, 3, lane]
                )  # fmt: skip
                out[i * (i + 1) // 2 + i, lane] += glide[n, 0, a, lane] * towards
                out[(i + 1) * (i + 2) // 2 + i, lane] += glide[n, 1, a, lane] * towards
                out[(i + 1) * (i + 2) // 2 + i + 1, lane] += glide[n, 2, a, lane] * towards
    for b in range(len(bend)):
        for i in range(part.num_dofs):
            for n in range(i + 1):
                for lane in range(LANES):
                    out[i * (i + 1) // 2 + n, lane] += scale[b, lane] * bend[b, i, lane] * bend[b, n, lane]
