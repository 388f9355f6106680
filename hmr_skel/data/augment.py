"""What a training sample may be changed by: the numbers of one change, drawn from a generator, and how they act."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How far samples are changed. The defaults are the paper's (SKEL-CF's published settings)."""

    scale: float = 0.1
    """The box's side is multiplied by 1 + this * N(0, 1), the normal number cut at +-1."""
    translation: float = 0.0
    """The box's centre is moved by this * its side * N(0, 1) in x and y, cut at +-1 (HSMR: 0.02)."""
    roll_deg: float = 0.0
    """The camera is rolled about its optical axis by this * N(0, 1) degrees, cut at +-2 (HSMR: 30)."""
    roll_probability: float = 0.6
    """In so many samples, where `roll_deg` is not 0."""
    flip_probability: float = 0.0
    """Mirrored samples (HSMR: 0.5)."""
    color: float = 0.2
    """Red, green and blue are multiplied by one factor each, from [1 - this, 1 + this]."""
    extreme_crop_probability: float = 0.1
    """The box is drawn around a part of the body instead, see `hmr_skel.data.part_crops`."""
    degrade_probability: float = 0.3
    """Blur and the like, and contrast and the like: each in so many samples, see `hmr_skel.data.degrade`."""
