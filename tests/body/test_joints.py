import pytest

from hmr_skel.body.joints import (
    FLIP_44,
    KEYPOINTS_44,
    OPENPOSE_25_FROM_SMPL_45,
    SKEL_JOINTS,
    SKEL_PARENTS,
    SKEL_TO_CORRECTIVE_SLOT,
    SKEL_TO_SMPL,
    SMPL_JOINTS,
    SMPL_PARENTS,
    SMPL_VERTEX_IDS,
    subtree,
)

# What smplx appends to SMPL's joints, in its order.
VERTEX_NAMES = (
    "nose", "reye", "leye", "rear", "lear", "LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel",
    "lthumb", "lindex", "lmiddle", "lring", "lpinky", "rthumb", "rindex", "rmiddle", "rring", "rpinky",
)  # fmt: skip


def side(name: str) -> str:
    """r, l or nothing, from any of the naming habits met here."""
    name = name.removeprefix("OP ")
    for letter, words in (("r", ("right", "Right")), ("l", ("left", "Left"))):
        if name.startswith(words) or name.endswith(f"_{letter}") or (name[0] == letter.upper() and name[1].isupper()):
            return letter
    return ""


def test_joint_sets_have_24_names_and_ordered_parents():
    for names, parents in ((SMPL_JOINTS, SMPL_PARENTS), (SKEL_JOINTS, SKEL_PARENTS)):
        assert len(names) == len(set(names)) == len(parents) == 24
        assert parents[0] == -1
        assert all(0 <= parent < joint for joint, parent in enumerate(parents) if joint)


def test_smpl_joints_are_smplxs():
    from smplx.joint_names import JOINT_NAMES

    assert list(SMPL_JOINTS[:22]) == JOINT_NAMES[:22]  # SMPL-X shares them up to the wrists


def test_smpl_vertices_are_smplxs():
    from smplx.vertex_ids import vertex_ids

    assert list(SMPL_VERTEX_IDS) == [vertex_ids["smplh"][name] for name in VERTEX_NAMES]


@pytest.mark.parametrize("table", [SKEL_TO_SMPL, SKEL_TO_CORRECTIVE_SLOT])
def test_correspondences_keep_the_side(table):
    assert len(table) == 24
    for skel, smpl in enumerate(table):
        if smpl:
            assert side(SKEL_JOINTS[skel]) == side(SMPL_JOINTS[smpl]), SKEL_JOINTS[skel]


def test_keypoints_are_44_and_the_flip_swaps_their_sides():
    assert len(KEYPOINTS_44) == len(set(KEYPOINTS_44)) == len(FLIP_44) == 44
    assert [FLIP_44[k] for k in FLIP_44] == list(range(44))
    swap = {"": "", "r": "l", "l": "r"}
    for k, name in enumerate(KEYPOINTS_44):
        other = KEYPOINTS_44[FLIP_44[k]]
        assert side(other) == swap[side(name)], name
        assert other.replace("Left", "Right").replace("OP L", "OP R") == name.replace("Left", "Right").replace(
            "OP L", "OP R"
        )


def test_openpose_keypoints_are_picked_by_meaning():
    named = dict(zip(KEYPOINTS_44, OPENPOSE_25_FROM_SMPL_45, strict=False))
    found = {keypoint: (SMPL_JOINTS + VERTEX_NAMES)[k] for keypoint, k in named.items()}
    words = {"Shoulder": "shoulder", "Elbow": "elbow", "Wrist": "wrist", "Hip": "hip", "Knee": "knee", "Ankle": "ankle"}
    expected = {"OP Nose": "nose", "OP Neck": "neck", "OP MidHip": "pelvis"}
    for letter, long in (("R", "right"), ("L", "left")):
        expected |= {f"OP {letter}{word}": f"{long}_{joint}" for word, joint in words.items()}
        expected |= {f"OP {letter}{word}": f"{letter}{word}" for word in ("BigToe", "SmallToe", "Heel")}
        expected |= {f"OP {letter}{word}": f"{letter}{word}".lower() for word in ("Eye", "Ear")}
    assert found == expected


def test_subtree_is_everything_below():
    assert [SKEL_JOINTS[j] for j in subtree(SKEL_PARENTS, 14)] == [
        "scapula_r", "humerus_r", "ulna_r", "radius_r", "hand_r",
    ]  # fmt: skip
    assert subtree(SKEL_PARENTS, 0) == list(range(24))
    assert subtree(SKEL_PARENTS, 12) == list(range(12, 24))
    assert subtree(SKEL_PARENTS, 5) == [5]
