"""What a fit is made of: stages, weights, limits, tolerances. A recipe is a named `FitConfig`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from hmr_skel.body.dofs import LIMIT_TABLES
from hmr_skel.errors import UserError

PARTS = ("lower", "upper", "full")
SHAPES = ("convert", "copy", "refine")
ROOTS = ("frozen", "refine")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the hierarchy: which dofs move, what they are moved by, how long."""

    part: str
    """`lower` (legs), `upper` (trunk, head, arms) or `full`: the dofs that move and the vertices that count."""

    vertices: int = 0
    """How many vertices of the part stand for all of them, spread over the bones; 0 takes every vertex."""

    refreshes: int = 1
    """Visits to the vertices, each followed by steps in which the mesh is held as moments. In the last stage, at most:
    a row stops where the next visit finds it converged."""

    iterations: int = 4
    """Steps in the reduced system per refresh, at most."""

    joint_weight: float = 0.1
    """Weight of the mean squared distance of the anatomical joints, beside 1 for that of the vertices."""

    joints: str = "all"
    """`all` joints of the part count in the joint term, or only the `scapulae`, which otherwise drift."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"stage part {self.part!r} is not one of {', '.join(PARTS)}")
        if self.joints not in ("all", "scapulae"):
            raise ValueError(f"stage joints {self.joints!r} is neither 'all' nor 'scapulae'")
        if self.vertices < 0 or self.refreshes < 1 or self.iterations < 1 or self.joint_weight < 0:
            raise ValueError(f"stage {self.part!r}: counts start at 1, weights and vertices at 0")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that decides a fit's result, so that it goes into a shard's fingerprint whole."""

    stages: tuple[Stage, ...] = field(
        default_factory=lambda: (
            Stage(part="lower", vertices=256, iterations=2),
            Stage(part="upper", vertices=512, iterations=2),
            Stage(part="full", vertices=1000, iterations=20),
            Stage(part="full", vertices=3000, iterations=3),
            Stage(part="full", refreshes=8, iterations=2),
        )
    )
    """In order. The last one decides the result; the ones before it find its basin."""

    shape: str = "convert"
    """`convert`: SKEL betas by least squares between the two shape spaces. `copy`: the same numbers, as published.
    `refine`: fitted to each row beside the pose, from the converted ones."""

    betas_rms: float = 2.2
    """Not for `copy`: the map is regularised until SMPL betas of rms 1 become SKEL betas of this rms in expectation."""

    betas_weight: float = 1e-6
    """`refine` only: weight, m^2, of the sum of squared differences from the converted betas."""

    root: str = "frozen"
    """`frozen`: SKEL's pelvis takes SMPL's global orientation and the matching place, in closed form. `refine`: from
    there, q[0:3] and transl are fitted with the pose."""

    limits: str = "anatomical"
    """The table of joint limits (`hmr_skel.body.dofs.limits`); they hold exactly."""

    prior_weight: float = 1e-6
    """Weight, m^2, of the sum of squared dofs, each over its half range in the limit table."""

    step_tolerance: float = 1e-3
    """A row is converged when no dof would move by more than this in one more step of the true objective, rad, or"""

    energy_tolerance: float = 3e-4
    """when that step would lower the objective by no more than this share of it."""

    max_step: float = 0.5
    """No dof moves further than this in one step, rad."""

    retry_v2v_mm: float = 15.0
    """Rows that end with a larger mean distance are fitted again from other starts, and so are some that end with three
    quarters of it (`fitting.starts`); the best one is kept."""

    far_v2v_mm: float = 20.0
    """Rows that end with a larger mean distance are kept with status `far`."""

    batch: int = 2048
    """Rows fitted together on a CPU. Part of the recipe because the last bits of a float32 result may depend on it.
    Rows that start again share tiles of 64 with those of their batch: the larger it is, the fuller such tiles are."""

    gpu_batch: int = 32768
    """The same on a GPU, where its memory suffices: some 0.3 MB a row. It decides about speed only."""

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].part != "full":
            raise ValueError("a fit ends with a stage 'full'")
        if self.shape not in SHAPES:
            raise ValueError(f"shape {self.shape!r} is not one of {', '.join(SHAPES)}")
        if self.root not in ROOTS:
            raise ValueError(f"root {self.root!r} is not one of {', '.join(ROOTS)}")
        if self.limits not in LIMIT_TABLES:
            raise ValueError(f"limits {self.limits!r} is not one of {', '.join(LIMIT_TABLES)}")
        if min(self.prior_weight, self.betas_weight, self.retry_v2v_mm, self.far_v2v_mm) < 0:
            raise ValueError("prior_weight, betas_weight, retry_v2v_mm and far_v2v_mm are not negative")
        positive = (self.betas_rms, self.step_tolerance, self.energy_tolerance, self.max_step)
        if min(self.batch, self.gpu_batch) < 1 or min(positive) <= 0:
            raise ValueError("batches, betas_rms, max_step and the tolerances are positive")

    @property
    def refines(self) -> bool:
        """More than the pose is fitted."""
        return "refine" in (self.shape, self.root)

    def batch_on(self, device_type: str) -> int:
        """Rows fitted together on such a device, cpu or cuda."""
        return self.batch if device_type == "cpu" else self.gpu_batch

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for fingerprints and meta files."""
        return asdict(self)


RECIPES: dict[str, Callable[[], FitConfig]] = {
    "default": FitConfig,  # converted shape, anatomical limits: the best fit that we know how to make
    "published_shape": partial(FitConfig, shape="copy"),  # betas copied as the published converters do, to compare
    "refine_shape": partial(FitConfig, shape="refine"),  # ten betas fitted to each row beside the pose
    "refine_root": partial(FitConfig, root="refine"),  # the root fitted to each row beside the pose
    "refine": partial(FitConfig, shape="refine", root="refine"),
}


def recipe(name: str) -> FitConfig:
    """The recipe of that name.

    Raises:
        UserError: there is none.
    """
    if name not in RECIPES:
        raise UserError(f"unknown fit recipe {name!r}; known: {', '.join(RECIPES)}.")
    return RECIPES[name]()
