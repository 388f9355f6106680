"""The skeleton posed, lane by lane: `fitting.kinematics` and `hmr_skel.body.moving_joints`, compiled.

The root is left out: everything is in the frame in which the pelvis does not turn. Metres, radians, float64.
"""

from math import pi, sqrt

import numpy as np

from fitting.lanes.state import LANES, Record, kernel, part_of_kernels

# Spine: joint, bending dof, extension dof. Scapulae: joint, abduction, elevation.
_SPINE = np.array([[11, 17, 18], [12, 20, 21], [13, 23, 24]])
_SCAPULAE = np.array([[14, 26, 27], [19, 36, 37]])
_REST = sqrt(0.5)  # cos(-pi/4): the scapula at rest
_SMALL_ARC = 0.02  # below this angle an arc comes from its series, as in `moving_joints`
_TURN, _TURN_REST = 6.283185307179586, 2.4492935982947064e-16  # a turn in rad, and what float64 leaves of it


@part_of_kernels
def _sine_versine(angle: float) -> tuple[float, float]:
    """sin and 1 - cos, to the last bits of float64, in vector registers: a library goes lane by lane."""
    # Whole turns are taken off: adding and subtracting 1.5 * 2^52 rounds. The rest is halved twice, for short series.
    turns = (angle * (0.5 / pi) + 6755399441055744.0) - 6755399441055744.0
    x = 0.25 * ((angle - turns * _TURN) - turns * _TURN_REST)
    z = x * x
    sine = x * (
        1 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880 + z * (-1 / 39916800 + z * (
            1 / 6227020800 - z / 1307674368000
        ))))))
    )  # fmt: skip
    cosine = 1 + z * (
        -1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * (-1 / 3628800 + z * (1 / 479001600 + z * (
            -1 / 87178291200 + z / 20922789888000
        ))))))
    )  # fmt: skip
    half = 2.0 * sine * cosine
    return 2.0 * half * (1.0 - 2.0 * sine * sine), 2.0 * half * half


@part_of_kernels
def _arc(t: float) -> tuple[float, float]:
    sine, versine = _sine_versine(t)
    t2, near = t * t, abs(t) < _SMALL_ARC
    return (
        t * (0.5 - t2 / 24 + t2 * t2 / 720) if near else versine / t,
        -t2 / 6 + t2 * t2 / 120 - t2 * t2 * t2 / 5040 if near else sine / t - 1.0,
    )


@part_of_kernels
def _arc_rate(t: float) -> tuple[float, float]:
    sine, versine = _sine_versine(t)
    t2, near = t * t, abs(t) < _SMALL_ARC
    return (
        0.5 - t2 / 8 + t2 * t2 / 144 if near else sine / t - versine / t2,
        t * (-1 / 3 + t2 / 30 - t2 * t2 / 840) if near else (1.0 - versine) / t - sine / t2,
    )


@part_of_kernels
def _arc_curvature(t: float) -> tuple[float, float]:
    sine, versine = _sine_versine(t)
    t2, near = t * t, abs(t) < _SMALL_ARC
    return (
        t * (-0.25 + t2 / 36) if near else (1.0 - versine) / t - 2.0 * sine / t2 + 2.0 * versine / (t2 * t),
        -1 / 3 + t2 / 10 - t2 * t2 / 168 if near else -sine / t - 2.0 * (1.0 - versine) / t2 + 2.0 * sine / (t2 * t),
    )


@part_of_kernels
def _glide(q: np.ndarray, n: int, side: float, lane: int) -> tuple[float, float, float, float]:
    """Sine and cosine of a scapula's abduction, and of its elevation from where the scapula rests."""
    sin_a, vers_a = _sine_versine(side * q[_SCAPULAE[n, 1], lane])
    sin_e, vers_e = _sine_versine(side * q[_SCAPULAE[n, 2], lane] - pi / 4)
    return sin_a, 1.0 - vers_a, sin_e, 1.0 - vers_e


@part_of_kernels
def _product(a: np.ndarray, b: np.ndarray, out: np.ndarray, three: int) -> None:
    """out = a b, of [3 3 L]."""
    for i in range(three):
        for j in range(three):
            for lane in range(LANES):
                out[i, j, lane] = (
                    a[i, 0, lane] * b[0, j, lane] + a[i, 1, lane] * b[1, j, lane] + a[i, 2, lane] * b[2, j, lane]
                )


@part_of_kernels
def _product_transposed(a: np.ndarray, b: np.ndarray, out: np.ndarray, three: int) -> None:
    """out = a b^T, of [3 3 L]."""
    for i in range(three):
        for j in range(three):
            for lane in range(LANES):
                out[i, j, lane] = (
                    a[i, 0, lane] * b[j, 0, lane] + a[i, 1, lane] * b[j, 1, lane] + a[i, 2, lane] * b[j, 2, lane]
                )


@part_of_kernels
def _turned(a: np.ndarray, x: np.ndarray, out: np.ndarray, three: int) -> None:
    """out = a x, of [3 3 L] and [3 L]."""
    for i in range(three):
        for lane in range(LANES):
            out[i, lane] = a[i, 0, lane] * x[0, lane] + a[i, 1, lane] * x[1, lane] + a[i, 2, lane] * x[2, lane]


@kernel
def _shift(bones: Record, q: np.ndarray, desk: Record) -> None:
    """Offsets from the parent, the gliding joints' own motion included."""
    bones, out = bones[0], desk[0].shift
    for j in range(24):
        for i in range(3):
            for lane in range(LANES):
                out[j, i, lane] = bones.offsets[j, i, lane]
    for n in range(3):
        j = _SPINE[n, 0]
        for lane in range(LANES):
            side, up_side = _arc(q[_SPINE[n, 1], lane])
            back, up_back = _arc(q[_SPINE[n, 2], lane])
            out[j, 0, lane] -= bones.spine[n, lane] * side
            out[j, 1, lane] += bones.spine[n, lane] * (up_side + up_back)
            out[j, 2, lane] -= bones.spine[n, lane] * back
    for n in range(2):
        j, side = _SCAPULAE[n, 0], 1.0 - 2.0 * n
        for lane in range(LANES):
            sin_a, cos_a, sin_e, cos_e = _glide(q, n, side, lane)
            out[j, 0, lane] -= side * bones.width[lane] / 4 * (cos_e * cos_a - _REST)
            out[j, 1, lane] -= bones.height[lane] / 2 * (sin_e + _REST)
            out[j, 2, lane] += bones.width[lane] / 4 * sin_a


@kernel
def _rotate(tree: Record, bones: Record, q: np.ndarray, desk: Record) -> None:
    """Rotations and axes of all joints, and their places from the shifts."""
    tree, bones, out = tree[0], bones[0], desk[0]
    for k in range(3, 46):
        for lane in range(LANES):
            out.sine[k, lane], out.versine[k, lane] = _sine_versine(q[k, lane] * tree.length[k])
    for i in range(3):
        for lane in range(LANES):
            for j in range(3):
                out.rotmat[0, i, j, lane] = 1.0 if i == j else 0.0
            out.position[0, i, lane] = bones.offsets[0, i, lane]
    place, frame = out.vector, out.turned
    for j in range(1, 24):
        parent = tree.parents[j]
        _product(out.rotmat[parent], bones.frame[j], frame, out.three)
        for k in range(tree.first[j] + tree.count[j] - 1, tree.first[j] - 1, -1):
            x, y, z = tree.unit[k, 0], tree.unit[k, 1], tree.unit[k, 2]
            for i in range(3):
                for lane in range(LANES):
                    a, b, c = frame[i, 0, lane], frame[i, 1, lane], frame[i, 2, lane]
                    out.axis[k, i, lane] = tree.length[k] * (a * x + b * y + c * z)
                    # A row times Rodrigues' I + sin [u]x + (1 - cos) [u]x^2: row [u]x = row x u.
                    d, e, f = b * z - c * y, c * x - a * z, a * y - b * x
                    s, v = out.sine[k, lane], out.versine[k, lane]
                    frame[i, 0, lane] = a + s * d + v * (e * z - f * y)
                    frame[i, 1, lane] = b + s * e + v * (f * x - d * z)
                    frame[i, 2, lane] = c + s * f + v * (d * y - e * x)
        _product_transposed(frame, bones.frame[j], out.rotmat[j], out.three)
        _turned(out.rotmat[parent], out.shift[j], place, out.three)
        for i in range(3):
            for lane in range(LANES):
                out.position[j, i, lane] = out.position[parent, i, lane] + place[i, lane]
    for j in range(24):
        _turned(out.rotmat[j], bones.joints[j], place, out.three)
        for i in range(3):
            for lane in range(LANES):
                for column in range(3):
                    out.transforms[j, i, column, lane] = out.rotmat[j, i, column, lane]
                out.transforms[j, i, 3, lane] = out.position[j, i, lane] - place[i, lane]


def pose(tree: Record, bones: Record, q: np.ndarray, desk: Record) -> None:
    """q [46 L] (its first three are ignored) to a pose; the motions of the dofs are left to `twists`."""
    _shift(bones, q, desk)
    _rotate(tree, bones, q, desk)


@kernel
def twists(tree: Record, bones: Record, q: np.ndarray, desk: Record) -> None:
    """Fills `velocity` and `linear` of a pose."""
    tree, bones, out = tree[0], bones[0], desk[0]
    glide = out.vector
    for n in range(3):
        parent = out.rotmat[tree.parents[_SPINE[n, 0]]]
        for which in range(2):
            k = _SPINE[n, 1 + which]
            for lane in range(LANES):
                across, along = _arc_rate(q[k, lane])
                glide[0, lane] = 0.0 if which else -across * bones.spine[n, lane]
                glide[1, lane] = along * bones.spine[n, lane]
                glide[2, lane] = -across * bones.spine[n, lane] if which else 0.0
            _turned(parent, glide, out.velocity[k], out.three)
    for n in range(2):
        parent, side = out.rotmat[tree.parents[_SCAPULAE[n, 0]]], 1.0 - 2.0 * n
        for which in range(2):
            for lane in range(LANES):
                sin_a, cos_a, sin_e, cos_e = _glide(q, n, side, lane)
                wide, high = bones.width[lane] / 4, bones.height[lane] / 2
                glide[0, lane] = wide * (sin_e * cos_a if which else cos_e * sin_a)
                glide[1, lane] = -side * high * cos_e if which else 0.0
                glide[2, lane] = 0.0 if which else side * wide * cos_a
            _turned(parent, glide, out.velocity[_SCAPULAE[n, 1 + which]], out.three)
    for k in range(3, 46):
        j = tree.joint[k]
        for i in range(3):
            m, n = (i + 1) % 3, (i + 2) % 3
            for lane in range(LANES):
                turn = out.axis[k, m, lane] * out.position[j, n, lane] - out.axis[k, n, lane] * out.position[j, m, lane]
                out.linear[k, i, lane] = out.velocity[k, i, lane] - turn


@kernel
def glide_curvatures(bones: Record, q: np.ndarray, desk: Record) -> None:
    """`moving_curvatures` in the parents' frames, [5 3 3 L]: joint, (first twice, both, second twice), xyz.

    Entries of `desk.glide` that are always zero are not written.
    """
    bones, out = bones[0], desk[0].glide
    for n in range(3):
        for lane in range(LANES):
            side, up = _arc_curvature(q[_SPINE[n, 1], lane])
            out[n, 0, 0, lane] = -side * bones.spine[n, lane]
            out[n, 0, 1, lane] = up * bones.spine[n, lane]
            back, up = _arc_curvature(q[_SPINE[n, 2], lane])
            out[n, 2, 1, lane] = up * bones.spine[n, lane]
            out[n, 2, 2, lane] = -back * bones.spine[n, lane]
    for n in range(2):
        side = 1.0 - 2.0 * n
        for lane in range(LANES):
            sin_a, cos_a, sin_e, cos_e = _glide(q, n, side, lane)
            wide, high = bones.width[lane] / 4, bones.height[lane] / 2
            forth = side * wide * cos_e * cos_a
            out[3 + n, 0, 0, lane] = forth
            out[3 + n, 0, 2, lane] = -wide * sin_a
            out[3 + n, 1, 0, lane] = -side * wide * sin_e * sin_a
            out[3 + n, 2, 0, lane] = forth
            out[3 + n, 2, 1, lane] = high * sin_e
