"""Random people per gender in T-pose, and the ten shape directions that describe them.

Frame: y up, facing +z, x to the left, metres.
"""

from dataclasses import dataclass

import numpy as np

from tools.open_body.anny_source import PHENOTYPES, AnnySource
from tools.open_body.posing import blend_dual_quaternions, posed_heads, t_pose_rotations

NUM_BETAS = 10
MEAN_HEIGHT = {"male": 0.388, "female": 0.372, "neutral": 0.371}
"""Anny's height phenotype, chosen so that the mean bodies are about 1.75, 1.64 and 1.69 m tall."""

GENDER_DEVIATION = 0.2
"""Spread of Anny's gender phenotype (0 male, 1 female) inside the male and the female model."""


@dataclass(frozen=True)
class People:
    """N random people of one gender in T-pose."""

    skin: np.ndarray
    """[N V 3], exactly mirror-symmetric."""
    heads: np.ndarray
    """[N B 3] Anny's bone heads in the same pose."""


@dataclass(frozen=True)
class ShapeSpace:
    """Mean skin and directions with unit-variance coefficients, as SMPL's betas have."""

    template: np.ndarray
    """[V 3]."""
    directions: np.ndarray
    """[V 3 10]."""
    explained: float
    """Share of the samples' variance that the ten directions hold."""


def sample_phenotypes(gender: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Adults [count 11]: Anny's phenotype values, columns as `PHENOTYPES`."""

    def around(mean: float, deviation: float, low: float = 0.02, high: float = 0.98) -> np.ndarray:
        return np.clip(rng.normal(mean, deviation, count), low, high)

    value = {name: np.full(count, 0.5) for name in PHENOTYPES}
    # People of one sex differ in how masculine their build is. Without that spread the male and female spaces could not
    # come near an average body (8 and 13 mm at best), as those of SMPL can, and no pose would mend it in a fit.
    towards_other = np.abs(rng.normal(0.0, GENDER_DEVIATION, count)).clip(0, 1)
    spread = {"male": towards_other, "female": 1 - towards_other}
    value["gender"] = spread[gender] if gender in spread else rng.uniform(0, 1, count)
    value["age"] = rng.uniform(0.62, 0.85, count)
    value["muscle"] = around(0.5, 0.2)
    value["weight"] = around(0.5, 0.22)
    value["height"] = around(MEAN_HEIGHT[gender], 0.055)
    value["proportions"] = around(0.5, 0.2)
    value["cupsize"] = around(0.5, 0.15)
    races = rng.dirichlet([1.0, 1.0, 1.0], count)
    value["african"], value["asian"], value["caucasian"] = races.T
    return np.stack([value[name] for name in PHENOTYPES], axis=1)


def pose_people(source: AnnySource, phenotypes: np.ndarray) -> People:
    """The people of `phenotypes` [N 11] in T-pose."""
    skin, heads = [], []
    for rest, rest_heads in zip(*source.rest(phenotypes), strict=True):
        rotations = t_pose_rotations(source, rest_heads)
        moved, shift = posed_heads(source.parents, rest_heads, rotations)
        posed = blend_dual_quaternions(rest, source.weights, source.parents, rotations, shift)
        skin.append((posed + posed[source.mirror] * [-1, 1, 1]) / 2)
        heads.append(moved)
    return People(np.stack(skin), np.stack(heads))


def fit_shape_space(people: People, num_betas: int = NUM_BETAS) -> ShapeSpace:
    """Principal components of the skins, scaled to unit variance; as in SMPL, a positive first one is taller."""
    count = len(people.skin)
    template = people.skin.mean(0)
    deviation = (people.skin - template).reshape(count, -1)
    # Eigenvectors of the small Gram matrix: N is far below 3 V.
    variance, vectors = np.linalg.eigh(deviation @ deviation.T / count)
    order = np.argsort(variance)[::-1][:num_betas]
    directions = (deviation.T @ vectors[:, order] / np.sqrt(count)).reshape(*template.shape, num_betas)
    heights = directions[template[:, 1].argmax(), 1] - directions[template[:, 1].argmin(), 1]
    return ShapeSpace(
        template, directions * np.where(heights < 0, -1.0, 1.0), float(variance[order].sum() / variance.sum())
    )
