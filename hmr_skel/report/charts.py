"""The report's charts as SVG. Colours, fonts and line widths are classes of the page's style sheet, so that one place
decides how they look on a screen, in the dark and on paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

from hmr_skel.body.dofs import DOF_NAMES, MIRROR, MIRROR_SIGN
from hmr_skel.report.bins import Bins


@dataclass(frozen=True)
class Series:
    """Values of one source; `color` is the number of a colour of the style sheet."""

    name: str
    color: int
    values: Float[np.ndarray, "N"]


def nice_step(span: float, most: int) -> float:
    """The smallest of 1, 2, 5 x 10^n that divides `span` into at most so many steps."""
    raw = span / most
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9)))


def histogram(series: Sequence[Series], unit: str, about: str) -> str:
    """Share of each source's rows by value, as outlines over one another. The last bin holds what lies beyond."""
    width, height, left, bottom = 1220.0, 300.0, 52.0, 46.0
    every = np.concatenate([one.values for one in series])
    most, usual = float(every.max()), float(np.quantile(every, 0.998))
    beyond = most > 1.6 * usual  # a few far away would squeeze all others
    step = nice_step(max(usual if beyond else most, 1e-6), 100)
    edges = np.arange(int((usual if beyond else most) / step) + 2) * step
    shares = [
        np.histogram(one.values.clip(0, edges[-1] - step / 2), edges)[0] / len(one.values) * 100 for one in series
    ]
    top = max(float(share.max()) for share in shares) * 1.08
    x = left + (width - left - 8) * edges / edges[-1]
    y = lambda share: height - bottom - (height - bottom - 10) * share / top  # noqa: E731
    parts = _grid_x(float(edges[-1]), left, width - 8, 10.0, height - bottom, unit, beyond)
    for tick in np.arange(0, top, nice_step(top, 5)):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g} %</text>')
    parts += [_steps(x, y(share), y(0), one.color) for one, share in zip(series, shares, strict=True)]
    for one in series:
        middle = left + (width - left - 8) * min(float(np.median(one.values)), edges[-1]) / edges[-1]
        parts.append(f'<line class="median c{one.color}" x1="{middle:.1f}" x2="{middle:.1f}" y1="10" y2="{y(0):.1f}"/>')
    return _svg(width, height, about, parts)


def spans(rows: Sequence[tuple[str, Sequence[Series]]], unit: str, about: str) -> str:
    """For each named row the histograms of all sources, and for each source the middle 90 % as a bar, the median as a
    dot and 99 % as a tick; numbers show under the pointer."""
    left, width, ridge, line, gap = 104.0, 620.0, 27.0, 13.0, 6.0
    height = 4 + sum(ridge + len(members) * line + gap for _, members in rows) + 40
    high = max(float(np.quantile(one.values, 0.99)) for _, members in rows for one in members) * 1.04
    scale = lambda value: left + (width - left - 12) * value / high  # noqa: E731
    parts = _grid_x(high, left, width - 12, 4.0, height - 40, unit)
    edges = np.linspace(0, high, 49)
    y = 4.0
    for name, members in rows:
        parts.append(f'<text class="label" x="{left - 12}" y="{y + ridge:.1f}" text-anchor="end">{escape(name)}</text>')
        y += ridge
        shares = [np.histogram(one.values.clip(0, high), edges)[0] / len(one.values) for one in members]
        tallest = max(share.max() for share in shares)
        for one, share in zip(members, shares, strict=True):
            parts.append(_steps(scale(edges), y - (ridge - 3) * share / tallest, y, one.color))
        for one in members:
            values = np.quantile(one.values, [0.05, 0.5, 0.95, 0.99])
            low, middle, most, tail = (scale(v) for v in values)
            centre = y + line / 2
            said = "5 % {:.1f}, median {:.1f}, 95 % {:.1f}, 99 % {:.1f} {}".format(*values, unit)
            parts += [
                f"<g><title>{escape(f'{one.name}, {name}: {said}')}</title>",
                f'<line class="whisker c{one.color}" x1="{most:.1f}" x2="{tail:.1f}" y1="{centre}" y2="{centre}"/>',
                f'<line class="whisker c{one.color}" x1="{tail:.1f}" x2="{tail:.1f}" y1="{centre - 4}" '
                f'y2="{centre + 4}"/>',
                f'<rect class="bar c{one.color}" x="{low:.1f}" width="{max(most - low, 1):.1f}" y="{centre - 3.5}" '
                'height="7" rx="3.5"/>',
                f'<circle class="dot c{one.color}" cx="{middle:.1f}" cy="{centre}" r="4.5"/></g>',
            ]
            y += line
        y += gap
    return _svg(width, height, about, parts)


@dataclass(frozen=True)
class DofGroup:
    """Dofs that are drawn together: those of the right side or the trunk; the left side is their mirror image."""

    title: str
    dofs: tuple[int, ...]


DOF_GROUPS = (
    DofGroup("Trunk and head", tuple(range(17, 26))),
    DofGroup("Legs", tuple(range(3, 10))),
    DofGroup("Arms", tuple(range(26, 36))),
)


def dof_ranges(group: DofGroup, angles: Sequence[Bins], limits_deg: Float[np.ndarray, "46 2"]) -> str:
    """How often each angle occurs, over its allowed range: the right side upwards, the mirrored left side downwards."""
    left, width, line, bottom = 138.0, 590.0, 42.0, 26.0
    both = any(MIRROR[k] != k for k in group.dofs)
    height = len(group.dofs) * line + bottom + 6
    low, high = _extent(group, angles, limits_deg)
    scale = lambda value: left + (width - left - 12) * (value - low) / (high - low)  # noqa: E731
    parts = []
    for tick in range(-360, 361, 45):
        if low <= tick <= high:
            kind = "zero" if tick == 0 else "grid"
            parts.append(
                f'<line class="{kind}" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="4" y2="{height - bottom}"/>'
                f'<text class="tick" x="{scale(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick}°</text>'
            )
    for i, k in enumerate(group.dofs):
        base = 4 + i * line + (line / 2 if both else line - 4)
        tall = line / 2 - 5 if both else line - 10
        first, last = (min(max(v, low), high) for v in limits_deg[k])
        if np.isfinite(limits_deg[k]).all():
            y, tail = (base - tall, 2 * tall) if both else (base - tall, tall)
            parts.append(
                f'<rect class="allowed" x="{scale(first):.1f}" width="{scale(last) - scale(first):.1f}" '
                f'y="{y:.1f}" height="{tail:.1f}"/>'
            )
            for bound in (first, last):
                x = scale(bound)
                parts.append(
                    f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 1:.1f}" y2="{y + tail + 1:.1f}"/>'
                )
        parts.append(_outline(angles[k], 1, base, -tall, scale, 1))
        if MIRROR[k] != k:
            parts.append(_outline(angles[MIRROR[k]], MIRROR_SIGN[k], base, tall, scale, 2))
        parts.append(f'<line class="axis" x1="{left}" x2="{width - 12}" y1="{base:.1f}" y2="{base:.1f}"/>')
        parts.append(
            f'<text class="label" x="{left - 10}" y="{base + 4 - (0 if both else tall / 2):.1f}" text-anchor="end">'
            f"{escape(dof_title(k))}</text>"
        )
    return _svg(width, height, f"{group.title}: distribution of each angle over its allowed range, degrees", parts)


_WORDS = {"pro sup": "pro-/supination", "scapula upward rot": "scapula upward rot.", "mtp": "toes (mtp)"}


def dof_title(k: int) -> str:
    """A dof's name for people, without its side: `shoulder_r_x` is `shoulder x`."""
    name = DOF_NAMES[k].replace("_angle", "")
    words = [word for word in name.split("_") if word not in ("r", "l")]
    return _WORDS.get(" ".join(words), " ".join(words))


def small_histogram(bins: Bins, low: float, high: float, about: str, marks: Sequence[float] = ()) -> str:
    """A histogram without a scale of its own, between two values that its neighbours share."""
    width, height = 150.0, 64.0
    scale = lambda value: width * (min(max(value, low), high) - low) / (high - low)  # noqa: E731
    parts = [
        f'<line class="{"zero" if mark == 0 else "grid"}" x1="{scale(mark):.1f}" x2="{scale(mark):.1f}" '
        f'y1="2" y2="{height - 14}"/>'
        f'<text class="tick" x="{scale(mark):.1f}" y="{height - 2}" text-anchor="middle">{mark:g}</text>'
        for mark in marks
    ]
    parts.append(_outline(bins, 1, height - 14, -(height - 18), scale, 1))
    parts.append(f'<line class="axis" x1="0" x2="{width}" y1="{height - 14}" y2="{height - 14}"/>')
    return _svg(width, height, about, parts)


def columns(values: Sequence[float], numbers: Sequence[int], unit: str, about: str, most: int = 96) -> str:
    """A bar per value, with the number of what it is of below; means of neighbours where there are more than `most`."""
    width, height, left, bottom = 1220.0, 190.0, 62.0, 30.0
    grouped = [float(np.mean(part)) for part in np.array_split(np.asarray(values, float), min(len(values), most))]
    top = max(*grouped, 1e-9) * 1.1
    y = lambda value: height - bottom - (height - bottom - 6) * value / top  # noqa: E731
    pitch = (width - left - 8) / len(grouped)
    parts = []
    for tick in np.arange(0, top, nice_step(top, 4)):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>')
    for i, value in enumerate(grouped):
        thick = min(max(pitch * 0.72, 1), 34)
        x = left + (i + 0.5) * pitch - thick / 2
        parts.append(
            f'<rect class="bar c1" x="{x:.1f}" width="{thick:.1f}" y="{y(value):.1f}" '
            f'height="{max(height - bottom - y(value), 0):.1f}"/>'
        )
    places = np.linspace(0, len(values) - 1, min(len(values), 13)).round().astype(int)
    for place in dict.fromkeys(places.tolist()):
        x = left + (place + 0.5) * (width - left - 8) / len(values)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{numbers[place]}</text>')
    parts.append(f'<text class="tick" x="{left - 7}" y="{height - 12}" text-anchor="end">{escape(unit)}</text>')
    return _svg(width, height, about, parts)


def _outline(bins: Bins, sign: int, base: float, tall: float, scale, color: int) -> str:
    """A filled histogram that stands on `base` and is `tall` high (negative: upwards)."""
    if not bins.counts.any():
        return ""
    used = np.flatnonzero(bins.counts)
    counts = bins.counts[used[0] : used[-1] + 1] / bins.counts.max() * tall
    edges = bins.edges[used[0] : used[-1] + 2] * sign
    return _steps([scale(edge) for edge in edges], base + counts, base, color)


def _steps(edges: Sequence[float] | np.ndarray, heights: np.ndarray, base: float, color: int) -> str:
    """The filled outline of bars that stand on `base`, between edges, all in the chart's own units."""
    corners = [f"M{edges[0]:.1f} {base:.1f}"]
    corners += [f"V{y:.1f}H{right:.1f}" for y, right in zip(heights, edges[1:], strict=True)]
    return f'<path class="area c{color}" d="{"".join(corners)}V{base:.1f}Z"/>'


def _extent(group: DofGroup, angles: Sequence[Bins], limits_deg: Float[np.ndarray, "46 2"]) -> tuple[float, float]:
    ends = [float(bound) for k in group.dofs for bound in limits_deg[k] if np.isfinite(bound)]
    for k in group.dofs:
        for member, sign in ((k, 1), (MIRROR[k], MIRROR_SIGN[k] if MIRROR[k] != k else 1)):
            if len(angles[member]):
                ends += [sign * angles[member].least, sign * angles[member].most]
    return max(min(ends) - 8, -360.0), min(max(ends) + 8, 360.0)


def _grid_x(
    high: float, left: float, right: float, top: float, bottom: float, unit: str, beyond: bool = False
) -> list[str]:
    """Vertical lines from 0 to `high` with their numbers, and the unit below. `beyond`: the end stands for more."""
    step = nice_step(high, 10)
    parts = []
    for tick in np.arange(0, high + step * 1e-6, step):
        x = left + (right - left) * tick / high
        text = f"{tick:g}"
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    text = f"{unit}; the last bin holds all rows beyond" if beyond else unit
    parts.append(
        f'<text class="tick" x="{(left + right) / 2:.0f}" y="{bottom + 35}" text-anchor="middle">{escape(text)}</text>'
    )
    return parts


def _svg(width: float, height: float, about: str, parts: Sequence[str]) -> str:
    head = f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about)}">'
    return head + "".join(parts) + "</svg>"
