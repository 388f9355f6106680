"""The names of SMPL's 24 joints, SKEL's 24 joints and the 44 keypoints of label files, and how they correspond.

Sources: smplx (joint names, `vertex_ids`), the SKEL model file (joints and parents), CameraHMR and 4D-Humans (the
order of the 44 keypoints).
"""

SMPL_JOINTS = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)

SKEL_JOINTS = (
    "pelvis", "femur_r", "tibia_r", "talus_r", "calcn_r", "toes_r", "femur_l", "tibia_l", "talus_l", "calcn_l",
    "toes_l", "lumbar_body", "thorax", "head", "scapula_r", "humerus_r", "ulna_r", "radius_r", "hand_r", "scapula_l",
    "humerus_l", "ulna_l", "radius_l", "hand_l",
)  # fmt: skip
SKEL_PARENTS = (-1, 0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 0, 11, 12, 12, 14, 15, 16, 17, 12, 19, 20, 21, 22)

# The SMPL joint whose world rotation each SKEL bone should have (talus and calcaneus share the ankle).
SKEL_TO_SMPL = (0, 2, 5, 8, 8, 11, 1, 4, 7, 7, 10, 3, 9, 15, 14, 17, 19, 21, 21, 13, 16, 18, 20, 20)

# The SMPL slot of the pose correctives that each SKEL joint's local rotation fills; slot 0 is none. If two joints
# share a slot, the later one fills it.
SKEL_TO_CORRECTIVE_SLOT = (0, 2, 5, 8, 8, 11, 1, 4, 7, 7, 10, 3, 6, 15, 14, 17, 19, 0, 21, 13, 16, 18, 0, 20)

# Vertices of the SMPL mesh that smplx appends to its joints: nose, eyes, ears, toes and heels, finger tips.
SMPL_VERTEX_IDS = (
    332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787,
    2746, 2319, 2445, 2556, 2673, 6191, 5782, 5905, 6016, 6133,
)  # fmt: skip

# Keypoints 0-24 (OpenPose's body) as numbers of SMPL's 24 joints followed by the 21 vertices above.
OPENPOSE_25_FROM_SMPL_45 = (
    24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34,
)  # fmt: skip

KEYPOINTS_44 = (
    "OP Nose", "OP Neck", "OP RShoulder", "OP RElbow", "OP RWrist", "OP LShoulder", "OP LElbow", "OP LWrist",
    "OP MidHip", "OP RHip", "OP RKnee", "OP RAnkle", "OP LHip", "OP LKnee", "OP LAnkle", "OP REye", "OP LEye",
    "OP REar", "OP LEar", "OP LBigToe", "OP LSmallToe", "OP LHeel", "OP RBigToe", "OP RSmallToe", "OP RHeel",
    "Right Ankle", "Right Knee", "Right Hip", "Left Hip", "Left Knee", "Left Ankle", "Right Wrist", "Right Elbow",
    "Right Shoulder", "Left Shoulder", "Left Elbow", "Left Wrist", "Neck (LSP)", "Top of Head (LSP)",
    "Pelvis (MPII)", "Thorax (MPII)", "Spine (H36M)", "Jaw (H36M)", "Head (H36M)",
)  # fmt: skip

# The keypoint that each keypoint becomes in a mirrored image.
FLIP_44 = (
    0, 1, 5, 6, 7, 2, 3, 4, 8, 12, 13, 14, 9, 10, 11, 16, 15, 18, 17, 22, 23, 24, 19, 20, 21,
    30, 29, 28, 27, 26, 25, 36, 35, 34, 33, 32, 31, 37, 38, 39, 40, 41, 42, 43,
)  # fmt: skip


def subtree(parents: tuple[int, ...], joint: int) -> list[int]:
    """The joint and all joints below it, in ascending order. Each parent's number is below its children's."""
    members = {joint}
    for child in range(joint + 1, len(parents)):
        if parents[child] in members:
            members.add(child)
    return sorted(members)


SKEL_PARTS = {
    "pelvis": (0,), "thighs": (1, 6), "shanks": (2, 7), "feet": (3, 4, 5, 8, 9, 10), "trunk": (11, 12), "head": (13,),
    "shoulders": (14, 19), "upper_arms": (15, 20), "forearms": (16, 17, 21, 22), "hands": (18, 23),
}  # fmt: skip
"""Body parts as SKEL joints: the vertices of a part follow mostly these joints."""
