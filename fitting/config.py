"""The settings of a fit: stages, weights, limits, tolerances. A recipe is a named `FitConfig`."""

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
    """A stage of the fit: which dofs move, which distances count, and the number of steps."""

    part: str
    """`lower` (legs), `upper` (trunk, head, arms) or `full`: the dofs that move and the vertices that count."""

    vertices: int = 0
    """Number of the part's vertices that are used, spread over the bones; 0 uses all."""

    refreshes: int = 1
    """Number of visits to the vertices, each followed by steps on fixed moments. In the last stage this is the maximum,
    since a row stops when a visit finds it converged."""

    iterations: int = 4
    """The most steps in the reduced system per refresh."""

    joint_weight: float = 0.1
    """Weight of the mean squared distance of anatomical joints; that of vertices has weight 1."""

    joints: str = "all"
    """The joint term contains `all` joints of the part, or only the `scapulae`, which otherwise drift."""

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"stage part {self.part!r} is not one of {', '.join(PARTS)}")
        if self.joints not in ("all", "scapulae"):
            raise ValueError(f"stage joints {self.joints!r} is neither 'all' nor 'scapulae'")
        if self.vertices < 0 or self.refreshes < 1 or self.iterations < 1 or self.joint_weight < 0:
            raise ValueError(f"stage {self.part!r}: counts start at 1, weights and vertices at 0")


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """All settings that decide the result of a fit; a shard's fingerprint includes them."""

    stages: tuple[Stage, ...] = field(
        default_factory=lambda: (
            Stage(part="lower", vertices=256, iterations=2),
            Stage(part="upper", vertices=512, iterations=2),
            Stage(part="full", vertices=1000, iterations=20),
            Stage(part="full", vertices=3000, iterations=3),
            Stage(part="full", refreshes=8, iterations=2),
        )
    )
    """The stages in order. The last one decides the result; the others find its basin."""

    shape: str = "convert"
    """`convert`: SKEL betas by least squares between the two shape spaces. `copy`: the same numbers, as published
    converters do. `refine`: betas fitted to each row with the pose, from the converted ones."""

    betas_rms: float = 2.2
    """For `convert`, `refine`: the map is regularised until SMPL betas of rms 1 give SKEL betas of this rms."""

    betas_weight: float = 1e-6
    """For `refine`: the weight, m^2, of the sum of squared differences from the converted betas."""

    root: str = "frozen"
    """`frozen`: SKEL's pelvis gets SMPL's global orientation and the matching position in closed form. `refine`: q[0:3]
    and transl are also fitted, from there."""

    limits: str = "anatomical"
    """The table of limits (`hmr_skel.body.dofs.limits`), which hold exactly."""

    prior_weight: float = 1e-6
    """Weight, m^2, of the sum of squared dofs, each divided by half its range in the limit table."""

    step_tolerance: float = 1e-3
    """A row has converged if one more step of the true objective would move no dof by more than this, rad, or"""

    energy_tolerance: float = 3e-4
    """if that step would lower the objective by no more than this share."""

    max_step: float = 0.5
    """The most that a dof moves in one step, rad."""

    retry_v2v_mm: float = 15.0
    """Rows that end with a larger mean distance are fitted again from other starts, and so are some from three quarters
    of it (`fitting.starts`); the best result is kept."""

    far_v2v_mm: float = 20.0
    """Rows that end with a larger mean distance are kept with status `far`."""

    batch: int = 2048
    """Rows fitted together on a CPU. It is part of the recipe because the last bits of a float32 result may depend on
    it. Rows that start again fill tiles of 64 with others of their batch, so a larger batch wastes less."""

    gpu_batch: int = 32768
    """The same on a GPU, where its memory suffices: some 0.3 MB a row. It decides about speed only."""

    def __post_init__(self) -> None:
        if not self.stages or self.stages[-1].part != "full":
            raise ValueError("the last stage of a fit is not 'full'")
        if self.shape not in SHAPES:
            raise ValueError(f"shape {self.shape!r} is not one of {', '.join(SHAPES)}")
        if self.root not in ROOTS:
            raise ValueError(f"root {self.root!r} is not one of {', '.join(ROOTS)}")
        if self.limits not in LIMIT_TABLES:
            raise ValueError(f"limits {self.limits!r} is not one of {', '.join(LIMIT_TABLES)}")
        if min(self.prior_weight, self.betas_weight, self.retry_v2v_mm, self.far_v2v_mm) < 0:
            raise ValueError("prior_weight, betas_weight, retry_v2v_mm and far_v2v_mm must not be negative")
        positive = (self.betas_rms, self.step_tolerance, self.energy_tolerance, self.max_step)
        if min(self.batch, self.gpu_batch) < 1 or min(positive) <= 0:
            raise ValueError("batches, betas_rms, max_step and the tolerances must be positive")

    @property
    def refines(self) -> bool:
        """Whether the fit refines betas or root."""
        return "refine" in (self.shape, self.root)

    def batch_on(self, device_type: str) -> int:
        """Rows fitted together on a device of this type, cpu or cuda."""
        return self.batch if device_type == "cpu" else self.gpu_batch

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for fingerprints and meta files."""
        return asdict(self)


RECIPES: dict[str, Callable[[], FitConfig]] = {
    "default": FitConfig,  # converted shape, anatomical limits: the most accurate labels
    "published_shape": partial(FitConfig, shape="copy"),  # betas copied, as published converters do, for comparison
    "refine_shape": partial(FitConfig, shape="refine"),  # also fits ten betas to each row
    "refine_root": partial(FitConfig, root="refine"),  # also fits the root to each row
    "refine": partial(FitConfig, shape="refine", root="refine"),
}


def recipe(name: str) -> FitConfig:
    """The recipe of that name.

    Raises:
        UserError: no recipe has that name.
    """
    if name not in RECIPES:
        raise UserError(f"unknown fit recipe {name!r}. Expected one of {', '.join(RECIPES)}.")
    return RECIPES[name]()
