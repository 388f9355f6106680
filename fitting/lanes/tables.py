"""Records of a skeleton, a stage and a chunk: `fitting.tables` and `fitting.kinematics` as the kernels want them."""

import numpy as np
import torch

from fitting.kinematics import Kinematics, Skeleton
from fitting.lanes.state import BONES, PART, TREE, Record, records
from fitting.lanes.surface import LaneSurface
from fitting.solver import DAMPING_DOWN, DAMPING_MAX, DAMPING_MIN, DAMPING_UP, LITTLE
from fitting.surface import CORRECTED
from fitting.tables import StageTables
from hmr_skel.body.dofs import DOF_JOINTS
from hmr_skel.body.joints import SKEL_PARENTS
from hmr_skel.body.moving_joints import MOVING_JOINTS
from hmr_skel.body.skel import Skel

_ARCS = ((11, 0), (12, 11), (13, 12))  # a joint of the spine, and where its arc begins


def tree_of(kinematics: Kinematics) -> Record:
    """`TREE`."""
    tree = records(TREE)
    for k, joint in enumerate(DOF_JOINTS):
        order = int(kinematics.dof_order[k])
        tree["unit"][0, k] = kinematics.unit[joint, order].numpy()
        tree["length"][0, k] = float(kinematics.length[joint, order])
    for name, values in (
        ("parents", SKEL_PARENTS), ("joint", DOF_JOINTS), ("corrected", CORRECTED), ("moving", MOVING_JOINTS),
        ("first", [DOF_JOINTS.index(j) for j in range(24)]), ("count", [DOF_JOINTS.count(j) for j in range(24)]),
    ):  # fmt: skip
        tree[name][0] = values
    return tree


def part_of(tables: StageTables) -> Record:
    """`PART`."""
    part, pairs = tables.part, tables.pairs
    first, second = pairs.first.tolist(), pairs.second.tolist()
    ordered = set(zip(first, second, strict=True)) | set(zip(second, first, strict=True))
    # Moments are first summed over the second bone's ancestors, then over the first one's.
    slots: dict[tuple[int, int], int] = {pair: i for i, pair in enumerate(sorted(ordered))}
    sums = []
    for which in (1, 0):
        for bone in range(23, 0, -1):
            parent = SKEL_PARENTS[bone]
            for pair in [p for p in slots if p[which] == bone] if parent else []:
                above = (pair[0], parent) if which else (parent, pair[1])
                sums.append((slots[pair], slots.setdefault(above, len(slots))))
    record = records(PART)
    record["slots"] = -1
    for (m, n), slot in slots.items():
        record["slots"][0, m, n] = slot
    for count, columns in {
        "dofs": {"dofs": part.dofs, "prior": tables.prior, "low": tables.box.low, "high": tables.box.high},
        "bones": {"bones": part.bones},
        "pairs": {
            "first": first,
            "second": second,
            "here": [slots[pair] for pair in zip(first, second, strict=True)],
            "mirrored": [slots[pair] for pair in zip(second, first, strict=True)],
        },
        "sums": {"sums": sums},
        "gliding": {"gliding": part.moving},
    }.items():
        for name, values in columns.items():
            record[f"num_{count}"] = len(values)
            record[name][0, : len(values)] = np.asarray(values).reshape(-1, *PART[name].shape[1:])
    record["num_slots"] = len(slots)
    record["max_step"] = tables.box.max_step
    record["joint_weight"] = tables.joint_importance.double().numpy()
    for name, value in (
        ("little", LITTLE), ("damping_down", DAMPING_DOWN), ("damping_up", DAMPING_UP), ("damping_min", DAMPING_MIN),
        ("damping_max", DAMPING_MAX),
    ):  # fmt: skip
        record[name] = value
    return record


def bone_columns(skeleton: Skeleton) -> dict[str, np.ndarray]:
    """What `BONES` holds, of [B] rows, rows first."""
    joints = skeleton.joints
    spine = torch.stack([(joints[:, j, 1] - joints[:, below, 1]).abs() for j, below in _ARCS], 1)
    columns = {
        "joints": joints.numpy(),
        "offsets": skeleton.offsets.numpy(),
        "frame": skeleton.dof_frame.numpy(),
        "spine": spine.numpy(),
        "width": (joints[:, 19] - joints[:, 14]).norm(dim=-1).numpy(),
        "height": (joints[:, 12] - joints[:, 11]).norm(dim=-1).numpy(),
    }
    assert columns.keys() == set(BONES.names or ())
    return columns


class LaneTables:
    """One stage."""

    def __init__(self, tables: StageTables, skel: Skel) -> None:
        self.stage = tables.stage
        self.correctives = tables.correctives
        self.part = part_of(tables)
        self.num_dofs = len(tables.part.dofs)
        self.vertices = tables.surface.vertices.numpy()
        self.importance = tables.surface.importance.numpy()
        self.surface = LaneSurface(skel, tables.surface.vertices)
        self.moments = tables.moments.table.T.contiguous()  # [P * 16, 66]
