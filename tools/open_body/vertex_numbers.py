"""SMPL's vertex numbers that tools hard-code, given to vertices that mean the same on this body.

`smplx` reads 21 landmarks by number and SKEL scales its bones by the distances between twelve skin vertices. The mesh
is numbered left half, midline, right half; then vertices swap numbers until these hold.
"""

import numpy as np

from tools.open_body.anny_source import AnnySource

LEFT_AND_RIGHT = {
    "eye": (2800, 6260), "ear": (583, 4071), "finger1": (2746, 6191), "finger2": (2319, 5782), "finger3": (2445, 5905),
    "finger4": (2556, 6016), "finger5": (2673, 6133), "big_toe": (3216, 6617), "small_toe": (3226, 6624),
    "heel": (3387, 6787),
}  # fmt: skip
"""smplx's `vertex_ids` (numbers only)."""
NOSE = 332


def landmark_numbers(source: AnnySource, skin: np.ndarray, heads: np.ndarray, thorax: np.ndarray) -> dict[int, int]:
    """SMPL number -> vertex of the mean T-posed `skin` [V 3] with bone heads [B 3] and SKEL's thorax joint [3]."""
    x, y, z = skin.T
    side = np.where(source.mirror == np.arange(len(skin)), 0.0, np.sign(x))
    main = np.array(source.bones)[source.weights.argmax(1)]
    head = main == "head"

    def best(mask: np.ndarray, score: np.ndarray) -> int:
        return int(np.flatnonzero(mask)[score[mask].argmax()])

    def near(point: np.ndarray, mask: np.ndarray) -> int:
        return best(mask, -((skin - point) ** 2).sum(1))

    def toward(name: str, direction: np.ndarray) -> int:
        mask = np.array([bone.startswith(name) and bone.endswith(".L") for bone in main])
        return best(mask, skin @ direction)

    def bone(name: str) -> np.ndarray:
        return heads[source.bone(name)]

    left = {
        "eye": near(bone("eye.L") + np.array([0, 0, 0.015]), head & (side > 0)),
        "ear": best(head & (side > 0), x),
        "big_toe": toward("toe1", np.array([0, 0, 1.0])),
        "small_toe": toward("toe5", np.array([0, 0, 1.0])),
        "heel": best((main == "foot.L") & (y < y.min() + 0.03), -z),
    }
    for finger in range(1, 6):
        left[f"finger{finger}"] = toward(f"finger{finger}", bone(f"finger{finger}-3.L") - bone(f"finger{finger}-2.L"))
    eye_level, top = bone("eye.L")[1], y.max()
    chosen = {NOSE: best(head & (side == 0) & (abs(y - eye_level + 0.035) < 0.03), z)}
    for name, (left_number, right_number) in LEFT_AND_RIGHT.items():
        chosen[left_number] = left[name]
        chosen[right_number] = int(source.mirror[left[name]])

    # SKEL divides whole difference vectors before it picks one coordinate: no coordinate of a pair may be equal, so 384
    # and 3027 lie off the midline and 3708 beside the mirror image of 196, not at it.
    free = ~np.isin(np.arange(len(skin)), list(chosen.values()))
    chosen[410] = best(head & (side == 0) & (abs(y - eye_level - 0.05) < 0.025), z)  # forehead
    chosen[384] = best(head & (side > 0) & (abs(y - eye_level) < 0.03) & (x < 0.04) & (x > 0.008), -z)  # back of head
    chosen[414] = best(head & (side == 0) & (y > top - 0.02), y)  # top of head
    chosen[196] = best(head & (side > 0) & (abs(y - eye_level - 0.055) < 0.02), x)  # temple, above the ear
    opposite = int(source.mirror[chosen[196]])
    around = np.unique(source.faces[(source.faces == opposite).any(1)])
    gap = abs(skin - skin[chosen[196]])
    chosen[3708] = best(np.isin(np.arange(len(skin)), around[around != opposite]), np.minimum(gap[:, 1], gap[:, 2]))
    palm = (2 * bone("finger3-1.R") + bone("wrist.R")) / 3
    hand = np.array([name.endswith(".R") and name.startswith(("metacarpal", "wrist", "finger3-1")) for name in main])
    across = np.hypot(x - palm[0], z - palm[2])
    chosen[6179] = best(hand & free & (across < 0.018), y)  # back of the hand
    chosen[6137] = best(hand & free & (across < 0.018), -y)  # palm
    chosen[5670] = near(bone("wrist.R") + np.array([0, 0.02, 0.008]), (side < 0) & free)  # wrist
    tip = chosen[5905]
    beside = np.unique(source.faces[(source.faces == tip).any(1)])
    chosen[5906] = best(np.isin(np.arange(len(skin)), beside[beside != tip]), -x)  # tip of the middle finger
    trunk = np.array([name.startswith("spine") for name in main])
    chosen[3027] = best(trunk & (side > 0) & (x < 0.04) & (abs(y - thorax[1] - 0.12) < 0.03), z)  # breastbone
    for number, rise in ((3495, 0.09), (3506, 0.15)):  # spine
        chosen[number] = near(np.array([0, thorax[1] + rise, z.min()]), trunk & (side == 0))
    if len(set(chosen.values())) != len(chosen):
        raise RuntimeError(f"two landmark numbers want the same vertex: {chosen}")
    return chosen


def assign_numbers(mirror: np.ndarray, x: np.ndarray, landmarks: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Canonical order [V] of the vertices (left half, midline, mirrored left half) and each one's final number [V]."""
    every = np.arange(len(mirror))
    middle = every[mirror == every]
    left = every[(mirror != every) & (x > x[mirror])]
    order = np.concatenate([left, middle, mirror[left]])
    place = np.empty_like(order)
    place[order] = every
    holder, number = every.copy(), every.copy()  # number -> canonical place and back
    for wanted, vertex in landmarks.items():
        a, b = place[vertex], holder[wanted]
        old = number[a]
        number[a], number[b] = wanted, old
        holder[wanted], holder[old] = a, b
    return order, number
