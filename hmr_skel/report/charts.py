"""Draw the report's charts as SVG. Their colours, fonts and line widths are classes of the page's style sheet, so that
it decides how they look on a screen, in dark mode and on paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from hmr_skel.body.dofs import DOF_NAMES, MIRROR, MIRROR_SIGN
from hmr_skel.report.gather import Bins

Scale = Callable[[Any], Any]
"""Maps a value, or an array of values, to a position in the chart."""
Number = float | int


@dataclass(frozen=True)
class Series:
    """The values of a source; `color` is the number of a colour in the style sheet."""

    name: str
    color: int
    values: Float[np.ndarray, "N"]


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 x 10^n that divides `span` into at most `most` steps."""
    raw = span / most
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9)))


def histogram(series: Sequence[Series], unit: str, about: str) -> str:
    """Overlaid histograms of the sources, in shares of their rows. The last bin has all larger values."""
    width, height, left, bottom = 1220.0, 300.0, 52.0, 46.0
    every = np.concatenate([one.values for one in series])
    most, usual = float(every.max()), float(np.quantile(every, 0.998))
    beyond = most > 1.6 * usual  # a few large values would squeeze all others
    step = nice_step(max(usual if beyond else most, 1e-6), 100)
    edges = np.arange(int((usual if beyond else most) / step) + 2) * step
    shares = [
        np.histogram(one.values.clip(0, edges[-1] - step / 2), edges)[0] / len(one.values) * 100 for one in series
    ]
    top = max(float(share.max()) for share in shares) * 1.08
    x = _scale(0, float(edges[-1]), left, width - 8)
    y = _scale(0, top, height - bottom, 10)
    parts = _grid_x(x, float(edges[-1]), 10, height - bottom, unit, beyond)
    parts += _grid_y(y, np.arange(0, top, nice_step(top, 5)), left, width - 8, "{:g} %")
    parts += [_steps(x(edges), y(share), y(0), one.color) for one, share in zip(series, shares, strict=True)]
    for one in series:
        middle = x(min(float(np.median(one.values)), edges[-1]))
        parts.append(_line(f"median c{one.color}", middle, middle, 10, y(0)))
    return _svg(width, height, about, parts)


def spans(rows: Sequence[tuple[str, Sequence[Series]]], unit: str, about: str) -> str:
    """For each name, the histograms of all sources, and for each source a bar of the middle 90 %, a dot at the median
    and a tick at 99 %; numbers show under the pointer."""
    left, width, ridge, line, gap = 104.0, 620.0, 27.0, 13.0, 6.0
    height = 4 + sum(ridge + len(members) * line + gap for _, members in rows) + 40
    high = max(float(np.quantile(one.values, 0.99)) for _, members in rows for one in members) * 1.04
    scale = _scale(0, high, left, width - 12)
    parts = _grid_x(scale, high, 4, height - 40, unit)
    edges = np.linspace(0, high, 49)
    y = 4.0
    for name, members in rows:
        parts.append(_text("label", left - 12, y + ridge, name, "end"))
        y += ridge
        shares = [np.histogram(one.values.clip(0, high), edges)[0] / len(one.values) for one in members]
        tallest = max(share.max() for share in shares)
        for one, share in zip(members, shares, strict=True):
            parts.append(_steps(scale(edges), y - (ridge - 3) * share / tallest, y, one.color))
        for one in members:
            values = np.quantile(one.values, [0.05, 0.5, 0.95, 0.99])
            low, middle, most, tail = (scale(v) for v in values)
            centre, kind = y + line / 2, f"whisker c{one.color}"
            said = "5 % {:.1f}, median {:.1f}, 95 % {:.1f}, 99 % {:.1f} {}".format(*values, unit)
            parts += [
                f"<g><title>{escape(f'{one.name}, {name}: {said}')}</title>",
                _line(kind, most, tail, centre, centre),
                _line(kind, tail, tail, centre - 4, centre + 4),
                _rect(f"bar c{one.color}", low, centre - 3.5, max(most - low, 1), 7, ' rx="3.5"'),
                f'<circle class="dot c{one.color}" cx="{middle:.1f}" cy="{centre:.1f}" r="4.5"/></g>',
            ]
            y += line
        y += gap
    return _svg(width, height, about, parts)


DOF_GROUPS = {"Trunk and head": range(17, 26), "Legs": range(3, 10), "Arms": range(26, 36)}
"""The dofs of the right side or the trunk that share a chart; the left side is their mirror image."""


def dof_ranges(title: str, angles: Sequence[Bins], limits_deg: Float[np.ndarray, "46 2"]) -> str:
    """Histograms of the angles of one of `DOF_GROUPS` over their ranges: right side up, mirrored left side down."""
    dofs = DOF_GROUPS[title]
    left, width, line, bottom = 160.0, 610.0, 42.0, 26.0
    both = any(MIRROR[k] != k for k in dofs)
    height = len(dofs) * line + bottom + 6
    low, high = _extent(dofs, angles, limits_deg)
    scale = _scale(low, high, left, width - 12)
    parts = []
    for tick in range(-360, 361, 45):
        if low <= tick <= high:
            parts.append(_line("zero" if tick == 0 else "grid", scale(tick), scale(tick), 4, height - bottom))
            parts.append(_text("tick", scale(tick), height - 8, f"{tick}°"))
    for i, k in enumerate(dofs):
        base = 4 + i * line + (line / 2 if both else line - 4)
        tall = line / 2 - 5 if both else line - 10
        if np.isfinite(limits_deg[k]).all():
            first, last = (scale(min(max(bound, low), high)) for bound in limits_deg[k])
            y, tail = base - tall, 2 * tall if both else tall
            parts.append(_rect("allowed", first, y, last - first, tail))
            parts += [_line("limit", bound, bound, y - 1, y + tail + 1) for bound in (first, last)]
        parts.append(_outline(angles[k], 1, base, -tall, scale, 1))
        if MIRROR[k] != k:
            parts.append(_outline(angles[MIRROR[k]], MIRROR_SIGN[k], base, tall, scale, 2))
        parts.append(_line("axis", left, width - 12, base, base))
        parts.append(_text("label", left - 10, base + 4 - (0 if both else tall / 2), dof_title(k), "end"))
    return _svg(width, height, f"{title}: distribution of each angle over its allowed range, degrees", parts)


_WORDS = {"pro sup": "pro-/supination", "scapula upward rot": "scapula upward rot.", "mtp": "toes (mtp)"}


def dof_title(k: int) -> str:
    """The readable name of a dof without its side: `shoulder x` for `shoulder_r_x`."""
    name = DOF_NAMES[k].replace("_angle", "")
    words = [word for word in name.split("_") if word not in ("r", "l")]
    return _WORDS.get(" ".join(words), " ".join(words))


def small_histogram(bins: Bins, low: float, high: float, about: str, marks: Sequence[float] = ()) -> str:
    """A histogram without a scale, between two values that its neighbours share."""
    width, height = 150.0, 64.0
    place = _scale(low, high, 0, width)
    scale = lambda value: place(min(max(value, low), high))  # noqa: E731
    parts = []
    for mark in marks:
        parts.append(_line("zero" if mark == 0 else "grid", scale(mark), scale(mark), 2, height - 14))
        parts.append(_text("tick", scale(mark), height - 2, f"{mark:g}"))
    parts.append(_outline(bins, 1, height - 14, -(height - 18), scale, 1))
    parts.append(_line("axis", 0, width, height - 14, height - 14))
    return _svg(width, height, about, parts)


def columns(values: Sequence[float], numbers: Sequence[int], unit: str, about: str, most: int = 96) -> str:
    """A bar per value, with the numbers below; for more than `most` values, each bar is the mean of neighbours."""
    width, height, left, bottom = 1220.0, 190.0, 62.0, 30.0
    grouped = [float(np.mean(part)) for part in np.array_split(np.asarray(values, float), min(len(values), most))]
    top = max(*grouped, 1e-9) * 1.1
    y = _scale(0, top, height - bottom, 6)
    pitch = (width - left - 8) / len(grouped)
    parts = _grid_y(y, np.arange(0, top, nice_step(top, 4)), left, width - 8, "{:,g}")
    for i, value in enumerate(grouped):
        thick = min(max(pitch * 0.72, 1), 34)
        x = left + (i + 0.5) * pitch - thick / 2
        parts.append(_rect("bar c1", x, y(value), thick, max(height - bottom - y(value), 0)))
    places = np.linspace(0, len(values) - 1, min(len(values), 13)).round().astype(int)
    for place in dict.fromkeys(places.tolist()):
        x = left + (place + 0.5) * (width - left - 8) / len(values)
        parts.append(_text("tick", x, height - 12, str(numbers[place])))
    parts.append(_text("tick", left - 7, height - 12, unit, "end"))
    return _svg(width, height, about, parts)


def _outline(bins: Bins, sign: int, base: Number, tall: Number, scale: Scale, color: int) -> str:
    """A filled histogram on `base` with height `tall` (negative: upwards)."""
    if not bins.counts.any():
        return ""
    used = np.flatnonzero(bins.counts)
    counts = bins.counts[used[0] : used[-1] + 1] / bins.counts.max() * tall
    edges = bins.edges[used[0] : used[-1] + 2] * sign
    return _steps([scale(edge) for edge in edges], base + counts, base, color)


def _steps(edges: Sequence[float] | np.ndarray, heights: np.ndarray, base: float, color: int) -> str:
    """The filled outline of bars on `base`, between edges, in the chart's units."""
    corners = [f"M{edges[0]:.1f} {base:.1f}"]
    corners += [f"V{y:.1f}H{right:.1f}" for y, right in zip(heights, edges[1:], strict=True)]
    return f'<path class="area c{color}" d="{"".join(corners)}V{base:.1f}Z"/>'


def _extent(dofs: Sequence[int], angles: Sequence[Bins], limits_deg: Float[np.ndarray, "46 2"]) -> tuple[float, float]:
    ends = [float(bound) for k in dofs for bound in limits_deg[k] if np.isfinite(bound)]
    for k in dofs:
        for member, sign in ((k, 1), (MIRROR[k], MIRROR_SIGN[k] if MIRROR[k] != k else 1)):
            if len(angles[member]):
                ends += [sign * angles[member].least, sign * angles[member].most]
    return max(min(ends) - 8, -360.0), min(max(ends) + 8, 360.0)


def _scale(low: Number, high: Number, start: Number, end: Number) -> Scale:
    """The linear scale that maps `low` to `start` and `high` to `end`."""
    return lambda value: start + (end - start) * (value - low) / (high - low)


def _grid_x(x: Scale, high: Number, top: Number, bottom: Number, unit: str, beyond: bool = False) -> list[str]:
    """Vertical lines from 0 to `high` with numbers, and the unit below. `beyond`: the last bin has larger values."""
    step = nice_step(high, 10)
    parts = []
    for tick in np.arange(0, high + step * 1e-6, step):
        parts.append(_line("grid", x(tick), x(tick), top, bottom))
        parts.append(_text("tick", x(tick), bottom + 16, f"{tick:g}"))
    text = f"{unit}; the last bin has all larger values" if beyond else unit
    return [*parts, _text("tick", x(high / 2), bottom + 35, text)]


def _grid_y(y: Scale, ticks: np.ndarray, left: Number, right: Number, text: str) -> list[str]:
    """Horizontal lines with their numbers on the left, formatted by `text`."""
    parts = []
    for tick in ticks:
        parts.append(_line("grid", left, right, y(tick), y(tick)))
        parts.append(_text("tick", left - 7, y(tick) + 4, text.format(tick), "end"))
    return parts


def _line(kind: str, x1: Number, x2: Number, y1: Number, y2: Number) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _rect(kind: str, x: Number, y: Number, width: Number, height: Number, more: str = "") -> str:
    return f'<rect class="{kind}" x="{x:.1f}" width="{width:.1f}" y="{y:.1f}" height="{height:.1f}"{more}/>'


def _text(kind: str, x: Number, y: Number, text: str, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: Number, height: Number, about: str, parts: Sequence[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about)}">'
    return head + "".join(parts) + "</svg>"
