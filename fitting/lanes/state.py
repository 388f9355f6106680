"""What all compiled kernels share: how many rows go side by side, how numba is told to compile, and their records.

Every array ends with an axis of `LANES` rows, and every innermost loop runs over it. Such a loop becomes vector
instructions in which each row is a lane of its own: no row sees another, and a row comes out the same to the bit
whichever lane it is in. 64 lanes are eight AVX-512 vectors of float64: long enough to hide what a loop costs to enter,
short enough that a chunk's working set stays in a core's caches.

What kernels read and write are records of numpy, one argument each, of one layout for every stage and body. Handed over
one by one, a kernel's arrays take numba longer to unpack than its mathematics takes to compile, and LLVM cannot tell
that they do not overlap. A kernel gets an array of one record and takes that first.
"""

import inspect
from collections.abc import Callable
from typing import TypeAlias

import numba
import numpy as np

LANES = 64  # `fitting.batch.TILE`


def kernel(function: Callable) -> Callable:
    """Compiled on first use; `fitting.lanes.cache` has it kept for the next time.

    Fused multiply-add is the only liberty taken; sums keep their order. Without the GIL, threads run side by side.
    """
    # The tests' shape checker wraps functions; numba must see the function itself.
    return numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy", no_cfunc_wrapper=True)(
        inspect.unwrap(function)
    )


def part_of_kernels(function: Callable) -> Callable:
    """A piece of kernels that is compiled within each: on its own it would be compiled once more."""
    return numba.njit(inline="always")(inspect.unwrap(function))


Record: TypeAlias = np.ndarray
"""[1] of one of the types below."""

DOFS, PACKED = 43, 43 * 44 // 2  # below the pelvis; the packed triangle of their matrix
PAIRS, SLOTS = 24 * 25 // 2, 24 * 24  # of bones, at most: m <= n, and ordered

_INT, _WIDE, _SHORT = np.int64, np.float64, np.float32

TREE: np.dtype = np.dtype(
    [  # the skeleton's constants
        ("parents", _INT, 24),
        ("first", _INT, 24),  # a joint's first dof
        ("count", _INT, 24),  # how many it has
        ("joint", _INT, 46),  # a dof's joint
        ("unit", _WIDE, (46, 3)),  # a dof's axis
        ("length", _WIDE, 46),
        ("corrected", _INT, 19),  # the joints whose rotations drive pose correctives
        ("moving", _INT, 5),  # the joints that glide, see `hmr_skel.body.moving_joints`
    ],
    align=True,
)

PART: np.dtype = np.dtype(
    [  # what a stage moves, and the order in which its moments are summed
        ("num_dofs", _INT),
        ("dofs", _INT, DOFS),
        ("num_bones", _INT),
        ("bones", _INT, 24),  # that move, children after their parents
        ("num_pairs", _INT),
        ("first", _INT, PAIRS),  # pairs of bones m <= n that share vertices
        ("second", _INT, PAIRS),
        ("here", _INT, PAIRS),  # the slot of (m, n), and
        ("mirrored", _INT, PAIRS),  # that of (n, m)
        ("num_slots", _INT),
        ("slots", _INT, (24, 24)),  # the slot of a pair of joints, -1 where no vertex joins their subtrees
        ("num_sums", _INT),
        ("sums", _INT, (2 * SLOTS, 2)),  # from slot, to slot: from moments of bones to moments of subtrees
        ("num_gliding", _INT),
        ("gliding", _INT, 5),  # which of `TREE.moving` the part has
        ("prior", _WIDE, DOFS),
        ("low", _WIDE, DOFS),  # limits, rad
        ("high", _WIDE, DOFS),
        ("max_step", _WIDE),  # how far one step may go, rad
        ("joint_weight", _WIDE, 24),  # of the anatomical joints in E
    ],
    align=True,
)

BONES: np.dtype = np.dtype(
    [  # a chunk's rest skeletons
        ("joints", _WIDE, (24, 3, LANES)),
        ("offsets", _WIDE, (24, 3, LANES)),
        ("frame", _WIDE, (24, 3, 3, LANES)),  # N
        ("spine", _WIDE, (3, LANES)),  # lengths of the spine's arcs
        ("width", _WIDE, LANES),  # from scapula to scapula
        ("height", _WIDE, LANES),  # from lumbar to thorax
    ]
)

_BY_BONE = (24, 3, 4, LANES)
DESK: np.dtype = np.dtype(
    [  # one thread's memory
        # Lengths of small loops. LLVM unrolls those whose lengths it knows: large kernels then take two to three times
        # as long to compile and are no faster.
        ("three", _INT),
        ("four", _INT),
        # A pose, and how each dof moves what hangs below its joint: p' = w x p + u.
        ("transforms", _WIDE, _BY_BONE),  # G
        ("rotmat", _WIDE, (24, 3, 3, LANES)),  # R
        ("position", _WIDE, (24, 3, LANES)),  # p
        ("axis", _WIDE, (46, 3, LANES)),  # w
        ("velocity", _WIDE, (46, 3, LANES)),  # t, the joint's own motion: spine and scapulae glide
        ("linear", _WIDE, (46, 3, LANES)),  # u = t - w x p
        ("turned", _WIDE, (3, 3, LANES)),
        ("shift", _WIDE, (24, 3, LANES)),
        ("sine", _WIDE, (46, LANES)),
        ("versine", _WIDE, (46, LANES)),
        ("vector", _WIDE, (3, LANES)),
        # The quadratic seen from a point.
        ("energy", _WIDE, LANES),
        ("gradient", _WIDE, (DOFS, LANES)),
        ("gauss_newton", _SHORT, (PACKED, LANES)),
        ("curvature", _WIDE, (PACKED, LANES)),  # what Newton's matrix adds
        ("moved", _WIDE, _BY_BONE),
        ("force", _WIDE, _BY_BONE),
        ("wrench", _WIDE, _BY_BONE),
        ("axis_short", _SHORT, (46, 3, LANES)),
        ("linear_short", _SHORT, (46, 3, LANES)),
        ("block", _SHORT, (4, 4, LANES)),
        ("moment", _WIDE, (3, LANES)),
        ("glide", _WIDE, (5, 3, 3, LANES)),
        ("along", _WIDE, LANES),
        # A step.
        ("step", _WIDE, (DOFS, LANES)),
        ("matrix", _SHORT, (PACKED, LANES)),
        ("factor", _SHORT, (PACKED, LANES)),
        ("inverse", _SHORT, (DOFS, LANES)),  # of the factor's diagonal
        ("free", _SHORT, (DOFS, LANES)),  # 1 where a dof may move, else 0
        ("edge", _SHORT, (DOFS, LANES)),  # where those that may not move go
        ("solution", _SHORT, (DOFS, LANES)),
        ("definite", _SHORT, LANES),  # 1 or 0
        ("longest", _WIDE, LANES),
        ("trial", _WIDE, (46, LANES)),
        ("trial_energy", _WIDE, LANES),
        # What `judge` finds.
        ("push", _WIDE, LANES),
        ("pushed", _WIDE, LANES),
        # Last, because the most of it is never touched.
        ("sums", _SHORT, (SLOTS, 4, 4, LANES)),  # moments by slot
    ],
    align=True,
)

POSED: np.dtype = np.dtype(
    [  # what a chunk's mesh is made of
        ("coefficients", _SHORT, (1 + 10 + 9 * 19, LANES)),  # 1, betas, local rotations less the identity
        ("transforms_short", _SHORT, _BY_BONE),
    ],
    align=True,
)

REDUCED: np.dtype = np.dtype(
    [  # the quadratic around the pose where the vertices were visited; its moments and its bend are the chunk's
        ("start_energy", _WIDE, LANES),  # E_0
        ("cross", _WIDE, _BY_BONE),  # B' transposed
        ("start", _WIDE, _BY_BONE),  # G_0
        ("anchor", _WIDE, (46, LANES)),  # q from where E counts what the tilt brings
        ("tilt", _WIDE, (DOFS, LANES)),
        ("total", _WIDE, LANES),  # sum of the distances, m
        ("largest", _WIDE, LANES),
    ],
    align=True,
)

SEEN: np.dtype = np.dtype(
    [  # what a visit saw on some of the vertices
        ("energy", _WIDE, LANES),
        ("total", _WIDE, LANES),
        ("largest", _SHORT, LANES),
        ("cross", _SHORT, _BY_BONE),
        ("vertex", _SHORT, (3, 3, 4, LANES)),  # room to work in
    ],
    align=True,
)


BEST: np.dtype = np.dtype(
    [  # one row: the best point found, see `fitting.batch.Fitted`
        ("q", _WIDE, 46),
        ("energy", _WIDE),
        ("push", _WIDE),
        ("ahead", _WIDE),
        ("pushed", _INT),
        ("v2v", _SHORT),
        ("v2v_max", _SHORT),
        ("iterations", np.int32),
    ],
    align=True,
)


def records(layout: np.dtype, count: int = 1) -> np.ndarray:
    return np.zeros(count, layout)


def new_desk() -> Record:
    desk = records(DESK)
    desk["three"], desk["four"] = 3, 4
    return desk
