"""Tables of joints, keypoints and dofs. Which axis turns what is compared with the oracle in test_skel_oracle.py."""

from math import pi

import numpy as np
import pytest
from smplx.joint_names import JOINT_NAMES
from smplx.vertex_ids import vertex_ids

from hmr_skel.body import dofs
from hmr_skel.body.dofs import DOF_NAMES, DOFS, HSMR_MEAN_Q, LIMIT_TABLES, MIRROR, MIRROR_SIGN, limits
from hmr_skel.body.joints import FLIP_44, KEYPOINTS_44, SMPL_JOINTS, SMPL_VERTEX_IDS

ANKLES = {DOF_NAMES.index("ankle_angle_r"), DOF_NAMES.index("ankle_angle_l")}
# What smplx appends to SMPL's joints, in its order.
VERTEX_NAMES = (
    "nose", "reye", "leye", "rear", "lear", "LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel",
    "lthumb", "lindex", "lmiddle", "lring", "lpinky", "rthumb", "rindex", "rmiddle", "rring", "rpinky",
)  # fmt: skip


def side(name: str) -> str:
    """r, l or nothing, from any of the naming habits met here."""
    name = name.removeprefix("OP ")
    for letter, words in (("r", ("right", "Right")), ("l", ("left", "Left"))):
        if name.startswith(words) or name.endswith(f"_{letter}") or f"_{letter}_" in name:
            return letter
        if name[0] == letter.upper() and name[1].isupper():
            return letter
    return ""


def test_smpl_joints_and_vertices_are_smplxs():
    assert list(SMPL_JOINTS[:22]) == JOINT_NAMES[:22]  # SMPL-X shares them up to the wrists
    assert list(SMPL_VERTEX_IDS) == [vertex_ids["smplh"][name] for name in VERTEX_NAMES]


@pytest.mark.parametrize(("names", "mirror"), [(KEYPOINTS_44, FLIP_44), (DOF_NAMES, MIRROR)])
def test_mirrors_swap_sides_by_name_and_undo_themselves(names, mirror):
    assert [mirror[k] for k in mirror] == list(range(len(names)))
    swap = {"": "", "r": "l", "l": "r"}

    def bare(name: str) -> str:
        for word in ("OP R", "OP L", "Right", "Left"):
            name = name.replace(word, "")
        return name.replace("_r_", "_").replace("_l_", "_").removesuffix("_r").removesuffix("_l")

    for k, name in enumerate(names):
        assert side(names[mirror[k]]) == swap[side(name)], name
        assert bare(names[mirror[k]]) == bare(name)


def test_mirror_signs_follow_from_the_axes():
    # OpenSim's z points to the right, so the mirror is diag(1, 1, -1) there, and a rotation vector w becomes
    # -diag(1, 1, -1) w. The pins of the two taluses are the one exception: they share an axis. The toes' pins
    # are written with a pi of six digits.
    for k, dof in enumerate(DOFS):
        expected = np.array(dof.axis) * [-1, -1, 1]
        found = MIRROR_SIGN[k] * np.array(DOFS[MIRROR[k]].axis)
        assert np.allclose(found, expected, atol=1e-5) == (k not in ANKLES), dof.name


# --- limits ---


@pytest.mark.parametrize("table", LIMIT_TABLES)
def test_limit_tables_are_ordered_and_leave_the_pelvis_free(table):
    bounds = limits(table)
    assert bounds.shape == (46, 2)
    assert (bounds[:, 0] < bounds[:, 1]).all()
    assert np.isinf(bounds[dofs.PELVIS]).all()
    bounds[:] = 0
    assert np.isinf(limits(table)[0]).all()  # that was a copy


def test_the_default_bounds_every_body_dof_and_allows_what_people_do():
    low, high = limits().T
    np.testing.assert_array_equal(limits(), limits("anatomical"))
    body = range(3, 46)
    assert all(-pi <= low[k] <= 0 <= high[k] <= pi for k in body), "the zero pose"
    assert all(low[k] <= HSMR_MEAN_Q[k] <= high[k] for k in body), "the mean of real people"
    for name, passive_deg in (("knee_angle_r", 155), ("elbow_flexion_l", 150), ("hip_flexion_r", 125)):
        assert high[DOF_NAMES.index(name)] >= np.radians(passive_deg), name
    for name in ("knee_angle", "elbow_flexion"):  # hinges do not bend backwards
        assert low[DOF_NAMES.index(f"{name}_r")] == low[DOF_NAMES.index(f"{name}_l")] == 0
    for k, pair in enumerate(limits()):
        other = limits()[MIRROR[k]]
        expected = other if MIRROR_SIGN[k] > 0 else -other[::-1]
        np.testing.assert_array_equal(pair, expected, err_msg=DOF_NAMES[k])


def test_published_tables_are_kept_as_published():
    both = {
        "scapula_elevation_l": (-0.4, -0.1), "scapula_upward_rot_r": (-0.190, 0.319), "pro_sup_l": (-pi / 2, pi / 2),
        "lumbar_bending": (-pi / 6, pi / 6), "knee_angle_r": (0, 3 * pi / 4), "mtp_angle_l": (-pi / 4, pi / 4),
    }  # fmt: skip
    hsmr = {"hip_adduction_r": (-pi / 4, pi / 6), "shoulder_l_x": (-pi / 2 - 1.5, pi / 2)}
    for table, expected, bounded in (("skel", both, 32), ("hsmr", both | hsmr, 43)):
        for name, pair in expected.items():
            assert tuple(limits(table)[DOF_NAMES.index(name)]) == pytest.approx(pair), name
        assert np.isfinite(limits(table)).all(1).sum() == bounded
