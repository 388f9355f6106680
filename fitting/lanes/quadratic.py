"""The reduced problem, lane by lane: `fitting.reduced` and `fitting.pairs`, compiled.

    E(G) = E_0 + sum_mn tr(D_m M_mn D_n^T) - 2 sum_m tr(D_m B'_m) + prior + tilt and bend,   D = G - G_0.

Derivatives are halved throughout. Symmetric matrices over dofs are packed: the entry of dofs i >= k stands at
i (i + 1) / 2 + k. Energies, gradients and curvatures are float64; the Gauss-Newton matrix is summed in float32.
"""

import numpy as np

from fitting.lanes.lanes import LANES, kernel
from fitting.lanes.problem import Local, Part, Problem, Room
from fitting.lanes.skeleton import Bones, Posed, Tree, glide_curvatures, pose, twists
from hmr_skel.body.moving_joints import MOVING_JOINTS


@kernel
def energy_at(part: Part, problem: Problem, q: np.ndarray, posed: Posed, out: np.ndarray, room: Room) -> None:
    """E [L] at a pose; leaves its derivative by the transforms, halved, in `room.force`."""
    moved, force = room.moved, room.force
    for m in part.bones:
        for c in range(3):
            for e in range(4):
                for lane in range(LANES):
                    moved[m, c, e, lane] = posed.transforms[m, c, e, lane] - problem.start[m, c, e, lane]
                    force[m, c, e, lane] = -problem.cross[m, c, e, lane]
    for pair in range(len(part.first)):
        m, n, moments = part.first[pair], part.second[pair], problem.moments[pair]
        for c in range(3):
            for e in range(4):
                for lane in range(LANES):
                    force[m, c, e, lane] += (
                        moments[e, 0, lane] * moved[n, c, 0, lane] + moments[e, 1, lane] * moved[n, c, 1, lane]
                        + moments[e, 2, lane] * moved[n, c, 2, lane] + moments[e, 3, lane] * moved[n, c, 3, lane]
                    )  # fmt: skip
        if m != n:
            for c in range(3):
                for e in range(4):
                    for lane in range(LANES):
                        force[n, c, e, lane] += (
                            moments[0, e, lane] * moved[m, c, 0, lane] + moments[1, e, lane] * moved[m, c, 1, lane]
                            + moments[2, e, lane] * moved[m, c, 2, lane] + moments[3, e, lane] * moved[m, c, 3, lane]
                        )  # fmt: skip
    for lane in range(LANES):
        out[lane] = problem.energy[lane]
    for m in part.bones:
        for c in range(3):
            for e in range(4):
                for lane in range(LANES):
                    out[lane] += moved[m, c, e, lane] * (force[m, c, e, lane] - problem.cross[m, c, e, lane])
    for i in range(len(part.dofs)):
        k = part.dofs[i]
        for lane in range(LANES):
            shift = q[k, lane] - problem.anchor[k, lane]
            out[lane] += part.prior[i] * q[k, lane] * q[k, lane] + 2.0 * problem.tilt[i, lane] * shift
    along = room.vector[0]
    for b in range(len(problem.bend)):
        _along(part, problem, b, q, along)
        for lane in range(LANES):
            out[lane] += problem.scale[b, lane] * along[lane] * along[lane]


def linearise(
    tree: Tree, part: Part, bones: Bones, problem: Problem, q: np.ndarray, posed: Posed, out: Local, room: Room
) -> None:
    """The problem at q [46 L]."""
    # Kernels are called from here one by one: within one another they would take minutes to compile.
    pose(tree, bones, q, posed, room.skeleton)
    energy_at(part, problem, q, posed, out.energy, room)
    twists(tree, bones, q, posed, room.skeleton)
    _wrenches(tree, part, posed, room)
    _gradient(tree, part, problem, q, posed, out.gradient, room)
    _sum_moments(part, problem, posed, room)
    _gauss_newton(tree, part, posed, out.gauss_newton, room)
    glide_curvatures(bones, q, room.glide)
    _curvature(tree, part, problem, posed, out.curvature, room)


@kernel
def _along(part: Part, problem: Problem, b: int, q: np.ndarray, out: np.ndarray) -> None:
    """How far q has moved along a vector of the bend."""
    for lane in range(LANES):
        out[lane] = 0.0
    for i in range(len(part.dofs)):
        k = part.dofs[i]
        for lane in range(LANES):
            out[lane] += problem.bend[b, i, lane] * (q[k, lane] - problem.anchor[k, lane])


@kernel
def _wrenches(tree: Tree, part: Part, posed: Posed, room: Room) -> None:
    """The wrench on every joint: its subtree's forces F G^T, [3 4] with the sum of forces in the last column."""
    force, wrench = room.force, room.wrench
    _clear(wrench.reshape(-1, LANES))
    for n in range(len(part.bones) - 1, -1, -1):
        m = part.bones[n]
        for c in range(3):
            for e in range(3):
                for lane in range(LANES):
                    wrench[m, c, e, lane] += (
                        force[m, c, 0, lane] * posed.transforms[m, e, 0, lane]
                        + force[m, c, 1, lane] * posed.transforms[m, e, 1, lane]
                        + force[m, c, 2, lane] * posed.transforms[m, e, 2, lane]
                        + force[m, c, 3, lane] * posed.transforms[m, e, 3, lane]
                    )
            for lane in range(LANES):
                wrench[m, c, 3, lane] += force[m, c, 3, lane]
        above = tree.parents[m]
        for c in range(3):
            for e in range(4):
                for lane in range(LANES):
                    wrench[above, c, e, lane] += wrench[m, c, e, lane]


@kernel
def _gradient(
    tree: Tree, part: Part, problem: Problem, q: np.ndarray, posed: Posed, out: np.ndarray, room: Room
) -> None:
    w, u = posed.axis, posed.linear
    for i in range(len(part.dofs)):
        k = part.dofs[i]
        f = room.wrench[tree.joint[k]]
        for lane in range(LANES):
            turn = (
                w[k, 0, lane] * (f[2, 1, lane] - f[1, 2, lane])
                + w[k, 1, lane] * (f[0, 2, lane] - f[2, 0, lane])
                + w[k, 2, lane] * (f[1, 0, lane] - f[0, 1, lane])
            )
            push = u[k, 0, lane] * f[0, 3, lane] + u[k, 1, lane] * f[1, 3, lane] + u[k, 2, lane] * f[2, 3, lane]
            out[i, lane] = turn + push + part.prior[i] * q[k, lane] + problem.tilt[i, lane]
    along = room.vector[0]
    for b in range(len(problem.bend)):
        _along(part, problem, b, q, along)
        for i in range(len(part.dofs)):
            for lane in range(LANES):
                out[i, lane] += problem.scale[b, lane] * along[lane] * problem.bend[b, i, lane]


@kernel
def _sum_moments(part: Part, problem: Problem, posed: Posed, room: Room) -> None:
    """World moments Q_mn = G_m M_mn G_n^T, then sums of them over pairs of subtrees, float32."""
    sums, half = room.sums, room.block
    _clear(sums.reshape(-1, LANES))
    for pair in range(len(part.first)):
        a, b = posed.transforms[part.first[pair]], posed.transforms[part.second[pair]]
        moments, here, mirrored = problem.moments[pair], part.here[pair], part.mirrored[pair]
        for c in range(3):
            for e in range(4):
                for lane in range(LANES):
                    half[c, e, lane] = (
                        np.float32(a[c, 0, lane]) * moments[0, e, lane]
                        + np.float32(a[c, 1, lane]) * moments[1, e, lane]
                        + np.float32(a[c, 2, lane]) * moments[2, e, lane]
                        + np.float32(a[c, 3, lane]) * moments[3, e, lane]
                    )  # fmt: skip
        for e in range(4):
            for lane in range(LANES):
                half[3, e, lane] = moments[3, e, lane]
        for c in range(4):
            for e in range(3):
                for lane in range(LANES):
                    sums[here, c, e, lane] = (
                        half[c, 0, lane] * np.float32(b[e, 0, lane]) + half[c, 1, lane] * np.float32(b[e, 1, lane])
                        + half[c, 2, lane] * np.float32(b[e, 2, lane]) + half[c, 3, lane] * np.float32(b[e, 3, lane])
                    )  # fmt: skip
            for lane in range(LANES):
                sums[here, c, 3, lane] = half[c, 3, lane]
        if here != mirrored:
            for c in range(4):
                for e in range(4):
                    for lane in range(LANES):
                        sums[mirrored, c, e, lane] = sums[here, e, c, lane]
    for n in range(len(part.sums)):
        source, target = sums[part.sums[n, 0]], sums[part.sums[n, 1]]
        for c in range(4):
            for e in range(4):
                for lane in range(LANES):
                    target[c, e, lane] += source[c, e, lane]


@kernel
def _gauss_newton(tree: Tree, part: Part, posed: Posed, out: np.ndarray, room: Room) -> None:
    """tr(W_k C W_l^T) over the dofs, with W = [[w]x | u] and C the moments of both subtrees; and the prior."""
    w, u, v = room.axis, room.linear, room.block
    for i in range(len(part.dofs)):
        k = part.dofs[i]
        for c in range(3):
            for lane in range(LANES):
                w[k, c, lane] = posed.axis[k, c, lane]
                u[k, c, lane] = posed.linear[k, c, lane]
    _clear(out)
    for i in range(len(part.dofs)):
        k, met = part.dofs[i], -1
        for n in range(i, len(part.dofs)):
            other = part.dofs[n]
            slot, place = part.slots[tree.joint[k], tree.joint[other]], n * (n + 1) // 2 + i
            if slot < 0:
                continue
            if slot != met:  # a new joint: V = W_k C, of which its dofs need five numbers
                met, c = slot, room.sums[slot]
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
def _curvature(tree: Tree, part: Part, problem: Problem, posed: Posed, out: np.ndarray, room: Room) -> None:
    """The second derivatives of points times the forces on them: an outer axis cross the inner dof's motion."""
    _clear(out)
    w, moment, glide = posed.axis, room.moment, room.glide
    for i in range(len(part.dofs)):  # the inner dof
        k = part.dofs[i]
        j = tree.joint[k]
        f = room.wrench[j]
        # The columns of W = [[w]x | u] cross those of f: (w x e) x f_e = e (w . f_e) - w (e . f_e), summed over e.
        for a in range(3):
            b, c = (a + 1) % 3, (a + 2) % 3
            for lane in range(LANES):
                trace = f[0, 0, lane] + f[1, 1, lane] + f[2, 2, lane]
                moment[a, lane] = (
                    w[k, 0, lane] * f[0, a, lane] + w[k, 1, lane] * f[1, a, lane] + w[k, 2, lane] * f[2, a, lane]
                    - w[k, a, lane] * trace
                    + posed.linear[k, b, lane] * f[c, 3, lane] - posed.linear[k, c, lane] * f[b, 3, lane]
                )  # fmt: skip
        for n in range(len(part.dofs)):  # the outer one: of a joint above, or later in the same
            outer = part.dofs[n]
            if not _above(tree, tree.joint[outer], j) or (tree.joint[outer] == j and outer < k):
                continue
            place = max(i, n) * (max(i, n) + 1) // 2 + min(i, n)
            for lane in range(LANES):
                out[place, lane] += (
                    w[outer, 0, lane] * moment[0, lane]
                    + w[outer, 1, lane] * moment[1, lane]
                    + w[outer, 2, lane] * moment[2, lane]
                )
            if tree.joint[outer] == j:  # a dof does not turn the glide of its own joint
                for a in range(3):
                    b, c = (a + 1) % 3, (a + 2) % 3
                    for lane in range(LANES):
                        out[place, lane] -= w[outer, a, lane] * (
                            posed.velocity[k, b, lane] * f[c, 3, lane] - posed.velocity[k, c, lane] * f[b, 3, lane]
                        )
    for n in part.gliding:  # that glide is curved itself
        j = _MOVING[n]
        parent, f = posed.rotmat[tree.parents[j]], room.wrench[j]
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
    for b in range(len(problem.bend)):
        for i in range(len(part.dofs)):
            for n in range(i + 1):
                for lane in range(LANES):
                    out[i * (i + 1) // 2 + n, lane] += (
                        problem.scale[b, lane] * problem.bend[b, i, lane] * problem.bend[b, n, lane]
                    )


@kernel
def _clear(values: np.ndarray) -> None:
    """[N L] to zeros."""
    for n in range(len(values)):
        for lane in range(LANES):
            values[n, lane] = 0


@kernel
def _above(tree: Tree, joint: int, below: int) -> bool:
    while below > joint:
        below = tree.parents[below]
    return below == joint


_MOVING = np.array(MOVING_JOINTS)
