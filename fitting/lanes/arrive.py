"""Between a visit to the vertices and the steps after it, lane by lane."""

from math import sqrt

import numpy as np

from fitting.lanes.state import LANES, Record, kernel, part_of_kernels


@part_of_kernels
def _local_rotation(above: np.ndarray, below: np.ndarray, out: np.ndarray, three: int) -> None:
    """R_parent^T R, [3 3 L]."""
    for i in range(three):
        for j in range(three):
            for lane in range(LANES):
                out[i, j, lane] = (
                    above[0, i, lane] * below[0, j, lane] + above[1, i, lane] * below[1, j, lane]
                    + above[2, i, lane] * below[2, j, lane]
                )  # fmt: skip


@kernel
def pose_coefficients(tree: Record, shape: np.ndarray, desk: Record, posed: Record) -> None:
    """What the mesh is made of, float32: `shape` [11 L] has 1 and betas; local rotations less the identity; and G."""
    tree, desk, posed = tree[0], desk[0], posed[0]
    local, out = desk.turned, posed.coefficients
    for i in range(11):
        for lane in range(LANES):
            out[i, lane] = shape[i, lane]
    for s in range(len(tree.corrected)):
        joint = tree.corrected[s]
        _local_rotation(desk.rotmat[tree.parents[joint]], desk.rotmat[joint], local, desk.three)
        for i in range(desk.three):
            for j in range(desk.three):
                rest = 1.0 if i == j else 0.0
                for lane in range(LANES):
                    out[11 + 9 * s + 3 * i + j, lane] = local[i, j, lane] - rest
    for m in range(24):
        for i in range(desk.three):
            for j in range(desk.four):
                for lane in range(LANES):
                    posed.transforms_short[m, i, j, lane] = desk.transforms[m, i, j, lane]


@kernel
def stand(q: np.ndarray, desk: Record, reduced: Record) -> None:
    """The quadratic starts at the desk's pose, of q [46 L], and has no sums yet."""
    desk, out = desk[0], reduced[0]
    for lane in range(LANES):
        out.start_energy[lane] = out.total[lane] = out.largest[lane] = 0.0
    for m in range(24):
        for i in range(desk.three):
            for j in range(desk.four):
                for lane in range(LANES):
                    out.cross[m, i, j, lane] = 0.0
                    out.start[m, i, j, lane] = desk.transforms[m, i, j, lane]
    for k in range(46):
        for lane in range(LANES):
            out.anchor[k, lane] = q[k, lane]


@kernel
def pull_joints(part: Record, bones: Record, target: np.ndarray, desk: Record, reduced: Record) -> None:
    """Adds the anatomical joints, each one more point rigid on its bone, of `target` [24 3 L]."""
    part, bones, desk, out = part[0], bones[0], desk[0], reduced[0]
    for j in range(24):
        for i in range(3):
            for lane in range(LANES):
                apart = target[j, i, lane] - desk.position[j, i, lane]
                out.start_energy[lane] += part.joint_weight[j] * apart * apart
                for e in range(3):
                    out.cross[j, i, e, lane] += part.joint_weight[j] * apart * bones.joints[j, e, lane]
            for lane in range(LANES):
                out.cross[j, i, 3, lane] += part.joint_weight[j] * (target[j, i, lane] - desk.position[j, i, lane])


@kernel
def corrective_tilt(tree: Record, part: Record, by_rotation: np.ndarray, desk: Record, reduced: Record) -> None:
    """The tilt: dE/2 over the part's dofs, from dE/2 over the local rotations of the corrected joints [9 S, L]."""
    tree, part, desk = tree[0], part[0], desk[0]
    local, turn, out = desk.turned, desk.vector, reduced[0].tilt
    for n in range(part.num_dofs):
        for lane in range(LANES):
            out[n, lane] = 0.0
    for s in range(len(tree.corrected)):
        joint = tree.corrected[s]
        above = desk.rotmat[tree.parents[joint]]
        _local_rotation(above, desk.rotmat[joint], local, desk.three)
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
        for n in range(part.num_dofs):
            k = part.dofs[n]
            if tree.joint[k] == joint:
                for i in range(3):
                    for e in range(3):  # the axis in the parent's frame
                        for lane in range(LANES):
                            out[n, lane] += desk.axis[k, e, lane] * above[e, i, lane] * turn[i, lane]


@kernel
def learn(
    part: Record, q: np.ndarray, last_q: np.ndarray, last_gradient: np.ndarray, vector: np.ndarray, scale: np.ndarray,
    desk: Record,
) -> None:  # fmt: skip
    """What the gradients of two visits say of the second derivative that the matrix at the later one misses.

    The reduced problem holds the pose correctives still. The symmetric rank-one update (Nocedal and Wright, 6.24) adds
    the least that makes the matrix map the move between the visits onto the change of the true gradient.

    The update s v v^T goes into `vector` [D L] and `scale` [L], and into the curvature.
    """
    part, desk = part[0], desk[0]
    along, missed, moved = desk.along, desk.longest, desk.moment[0]
    for lane in range(LANES):
        along[lane] = missed[lane] = moved[lane] = 0.0
    for i in range(part.num_dofs):
        for lane in range(LANES):
            vector[i, lane] = desk.gradient[i, lane] - last_gradient[i, lane]
        for n in range(part.num_dofs):
            k, place = part.dofs[n], max(i, n) * (max(i, n) + 1) // 2 + min(i, n)
            for lane in range(LANES):
                entry = desk.gauss_newton[place, lane] + desk.curvature[place, lane]
                vector[i, lane] -= entry * (q[k, lane] - last_q[k, lane])
        k = part.dofs[i]
        for lane in range(LANES):
            move = q[k, lane] - last_q[k, lane]
            along[lane] += vector[i, lane] * move
            missed[lane] += vector[i, lane] * vector[i, lane]
            moved[lane] += move * move
    for lane in range(LANES):
        # Too flat an angle between the two makes the update blow up: such a visit teaches nothing.
        useful = abs(along[lane]) > 1e-2 * sqrt(missed[lane]) * sqrt(moved[lane])
        scale[lane] = 1.0 / along[lane] if useful else 0.0
    for i in range(part.num_dofs):
        for n in range(i + 1):
            for lane in range(LANES):
                desk.curvature[i * (i + 1) // 2 + n, lane] += scale[lane] * vector[i, lane] * vector[n, lane]


@kernel
def judge(
    part: Record, q: np.ndarray, reduced: Record, low: np.ndarray, high: np.ndarray, step_tolerance: float,
    energy_tolerance: float, count: int, last: bool, tried: np.ndarray, row: np.ndarray, live: np.ndarray,
    done: np.ndarray, last_q: np.ndarray, last_gradient: np.ndarray, best: Record, desk: Record,
) -> None:  # fmt: skip
    """Note in `best` [B] what is better there than before, of the rows [L] that are `live`; those whose minimum is not
    reached stay live, unless this is the `last` visit, and the others are `done`.

    `ahead` is what the desk's step would bring, over what is tolerated: in its largest dof or as a share of E,
    whichever is less. A Newton step lowers E by what half the gradient of E, times the step, says. In a flat valley,
    such as that of a shoulder near gimbal lock, a dof may go far and E nowhere: such a row has arrived as well.
    `push` is the largest slope of E, m^2/rad, that a limit within `low` and `high` [46] holds back, and `pushed` the
    number in q of its dof; 0, -1: none. `count` is the number of vertices.
    """
    part, desk, around = part[0], desk[0], reduced[0]
    longest, fall = desk.longest, desk.along
    for lane in range(LANES):
        longest[lane] = fall[lane] = desk.push[lane] = 0.0
        desk.pushed[lane] = -1.0
    for i in range(part.num_dofs):
        k = part.dofs[i]
        for lane in range(LANES):
            slope, step = desk.gradient[i, lane], desk.step[i, lane]
            longest[lane] = max(longest[lane], abs(step))
            fall[lane] -= slope * step
            held = q[k, lane] <= low[k] if slope > 0 else q[k, lane] >= high[k]
            harder = held and 2.0 * abs(slope) > desk.push[lane]
            desk.push[lane] = 2.0 * abs(slope) if harder else desk.push[lane]
            desk.pushed[lane] = k if harder else desk.pushed[lane]
            last_gradient[i, lane] = slope
    for k in range(46):
        for lane in range(LANES):
            last_q[k, lane] = q[k, lane]
    for lane in range(LANES):
        if live[lane]:
            found, energy = best[row[lane]], desk.energy[lane]
            ahead = min(longest[lane] / step_tolerance, fall[lane] / (energy_tolerance * energy))
            # Moments are exact only where they were taken: a row whose E rose goes back to where it was.
            better = energy <= found.energy
            if better:
                for k in range(46):
                    found.q[k] = q[k, lane]
                found.energy, found.ahead, found.push = energy, ahead, desk.push[lane]
                found.pushed = int(desk.pushed[lane])
                found.v2v = around.total[lane] / count * 1000.0
                found.v2v_max = around.largest[lane] * 1000.0
            found.iterations = tried[lane]
            live[lane] = better and ahead > 1.0 and not last
        done[lane] = not live[lane]
