from math import pi

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hmr_skel.body import dofs
from hmr_skel.body.dofs import DOF_JOINTS, DOF_NAMES, DOFS, HSMR_MEAN_Q, LIMIT_TABLES, MIRROR, MIRROR_SIGN, limits
from hmr_skel.body.joints import SKEL_JOINTS

ANKLES = {DOF_NAMES.index("ankle_angle_r"), DOF_NAMES.index("ankle_angle_l")}
# Where each joint's dofs begin, from the model's description.
FIRST_DOF = {
    "pelvis": 0, "femur_r": 3, "tibia_r": 6, "talus_r": 7, "calcn_r": 8, "toes_r": 9, "femur_l": 10, "tibia_l": 13,
    "talus_l": 14, "calcn_l": 15, "toes_l": 16, "lumbar_body": 17, "thorax": 20, "head": 23, "scapula_r": 26,
    "humerus_r": 29, "ulna_r": 32, "radius_r": 33, "hand_r": 34, "scapula_l": 36, "humerus_l": 39, "ulna_l": 42,
    "radius_l": 43, "hand_l": 44,
}  # fmt: skip


def other_side(name: str) -> str:
    swapped = name.replace("_r_", "_@_").replace("_l_", "_r_").replace("_@_", "_l_")
    if swapped == name and name.endswith(("_r", "_l")):
        swapped = name[:-1] + {"r": "l", "l": "r"}[name[-1]]
    return swapped


def test_there_are_46_dofs_in_the_order_of_the_joints():
    assert len(DOFS) == len(set(DOF_NAMES)) == dofs.NUM_DOFS == 46
    assert list(DOF_JOINTS) == sorted(DOF_JOINTS)
    assert {name: DOF_JOINTS.index(SKEL_JOINTS.index(name)) for name in SKEL_JOINTS} == FIRST_DOF


def test_axes_are_unit_vectors_as_far_as_they_are_written():
    np.testing.assert_allclose(np.linalg.norm([dof.axis for dof in DOFS], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "angles"),
    [("ankle_angle_r", (0.175895, -0.105208, 0.0186622)), ("ankle_angle_l", (0.175895, -0.105208, 0.0186622)),
     ("subtalar_angle_r", (-1.76818999, 0.906223, 1.8196)), ("subtalar_angle_l", (1.768189999, -0.906223, 1.8196)),
     ("mtp_angle_r", (-3.141589999, 0.619901, 0)), ("mtp_angle_l", (-3.141589999, -0.619901, 0))],
)  # fmt: skip
def test_pin_axes_are_z_turned_by_xyz_angles(name, angles):
    expected = Rotation.from_euler("XYZ", angles).as_matrix()[:, 2]
    np.testing.assert_allclose(DOFS[DOF_NAMES.index(name)].axis, expected, atol=1e-7)


def test_slices_name_what_they_hold():
    assert DOF_NAMES[dofs.PELVIS] == ("pelvis_tilt", "pelvis_list", "pelvis_rotation")
    for part, word in ((dofs.LUMBAR, "lumbar"), (dofs.THORAX, "thorax"), (dofs.HEAD, "head")):
        assert DOF_NAMES[part] == tuple(f"{word}_{motion}" for motion in ("bending", "extension", "twist"))
    for side in "rl":
        leg, arm, scapula, shoulder = (
            getattr(dofs, f"{part}_{side.upper()}") for part in ("LEG", "ARM", "SCAPULA", "SHOULDER")
        )
        assert [n.removesuffix(f"_{side}") for n in DOF_NAMES[leg]] == [
            "hip_flexion", "hip_adduction", "hip_rotation", "knee_angle", "ankle_angle", "subtalar_angle", "mtp_angle",
        ]  # fmt: skip
        assert all(n.startswith("scapula") and n.endswith(f"_{side}") for n in DOF_NAMES[scapula])
        assert DOF_NAMES[shoulder] == tuple(f"shoulder_{side}_{axis}" for axis in "xyz")
        assert DOF_NAMES[arm][:6] == DOF_NAMES[scapula] + DOF_NAMES[shoulder]
        assert len(DOF_NAMES[arm]) == 10
    index = np.arange(46)
    assert index[dofs.LOWER_BODY].tolist() == [*index[dofs.LEG_R], *index[dofs.LEG_L]]
    assert index[dofs.BODY].tolist() == [*index[dofs.LOWER_BODY], *index[dofs.UPPER_BODY]] == list(range(3, 46))


def test_mirror_swaps_sides_by_name_and_undoes_itself():
    mirror = np.array(MIRROR)
    assert (mirror[mirror] == np.arange(46)).all()
    assert (np.array(MIRROR_SIGN)[mirror] == np.array(MIRROR_SIGN)).all()
    assert [DOF_NAMES[k] for k in MIRROR] == [other_side(name) for name in DOF_NAMES]


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
    assert bounds.dtype == np.float64
    assert (bounds[:, 0] < bounds[:, 1]).all()
    assert np.isinf(bounds[dofs.PELVIS]).all()


def test_the_default_bounds_every_body_dof_and_allows_what_people_do():
    low, high = limits().T
    np.testing.assert_array_equal(limits(), limits("anatomical"))
    assert np.isfinite(limits()[dofs.BODY]).all()
    body = range(3, 46)
    assert all(low[k] <= 0 <= high[k] for k in body), "the zero pose"
    assert all(low[k] <= HSMR_MEAN_Q[k] <= high[k] for k in body), "the mean of real people"
    assert (high[dofs.BODY] <= pi).all()
    assert (low[dofs.BODY] >= -pi).all()
    for name, passive_deg in (("knee_angle_r", 155), ("elbow_flexion_l", 150), ("hip_flexion_r", 125)):
        assert high[DOF_NAMES.index(name)] >= np.radians(passive_deg), name
    for name in ("knee_angle", "elbow_flexion"):  # hinges do not bend backwards
        assert low[DOF_NAMES.index(f"{name}_r")] == low[DOF_NAMES.index(f"{name}_l")] == 0


def test_the_default_is_one_side_and_its_mirror_image():
    bounds = limits()
    for k, (low, high) in enumerate(bounds):
        other = bounds[MIRROR[k]]
        expected = other if MIRROR_SIGN[k] > 0 else -other[::-1]
        np.testing.assert_array_equal((low, high), expected, err_msg=DOF_NAMES[k])


def upstream(hsmr: bool) -> dict[str, tuple[float, float]]:
    """The published tables by full name, written down a second time."""
    both = {
        "scapula_abduction": (-0.628, 0.628), "scapula_elevation": (-0.4, -0.1), "elbow_flexion": (0, 3 * pi / 4),
        "wrist_flexion": (-pi / 2, pi / 2), "wrist_deviation": (-pi / 4, pi / 4), "knee_angle": (0, 3 * pi / 4),
    } | dict.fromkeys(("ankle_angle", "subtalar_angle", "mtp_angle"), (-pi / 4, pi / 4))  # fmt: skip
    if hsmr:
        both |= {"hip_flexion": (-pi / 4, 3 * pi / 4), "hip_adduction": (-pi / 4, pi / 6)}
        both |= {"hip_rotation": (-pi / 4, pi / 4)}
    named = {f"{name}_{side}": pair for name, pair in both.items() for side in "rl"}
    for part in ("lumbar", "thorax", "head"):
        named |= {f"{part}_{motion}": (-pi / 4, pi / 4) for motion in ("bending", "extension", "twist")}
    named |= {
        "lumbar_bending": (-pi / 6, pi / 6), "scapula_upward_rot_r": (-0.190, 0.319),
        "scapula_upward_rot_l": (-0.210, 0.219), "pro_sup_r": (-3 * pi / 8, 3 * pi / 8),
        "pro_sup_l": (-pi / 2, pi / 2), "shoulder_r_y": (-pi / 2, pi / 2),
    }  # fmt: skip
    if hsmr:
        named |= {f"shoulder_{side}_{axis}": (-pi / 2, pi / 2) for side in "rl" for axis in "yz"}
        named |= {"shoulder_r_x": (-pi / 2, pi / 2 + 1.5), "shoulder_l_x": (-pi / 2 - 1.5, pi / 2)}
    return named


@pytest.mark.parametrize("table", ["skel", "hsmr"])
def test_published_tables_are_kept_as_published(table):
    expected = upstream(hsmr=table == "hsmr")
    for name, pair in zip(DOF_NAMES, limits(table), strict=True):
        assert tuple(pair) == pytest.approx(expected.get(name, (-np.inf, np.inf))), name


def test_tables_are_copies():
    limits()[:] = 0
    assert np.isinf(limits()[0]).all()


def test_an_unknown_table_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown limit table 'osim'; known: anatomical, skel, hsmr"):
        limits("osim")
