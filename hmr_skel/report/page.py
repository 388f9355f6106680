"""The page: what was gathered and drawn, laid out by the template beside this."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from hmr_skel import __version__
from hmr_skel.body.dofs import limits
from hmr_skel.data.fingerprint import version_text
from hmr_skel.data.meta import statistics
from hmr_skel.render.heat import heat_stops
from hmr_skel.report import charts, tables
from hmr_skel.report.bodies import Measured
from hmr_skel.report.charts import Series
from hmr_skel.report.figures import Figure
from hmr_skel.report.gather import Dataset

STATUSES = {
    "converged": "converged",
    "at_limit": "converged at a limit",
    "max_iterations": "steps ran out",
    "given": "given as SKEL",
    "rejected": "rejected",
}
"""Status of a row, and what it means in a few words. Unfitted rows that were left out are `rejected`."""


@dataclass(frozen=True)
class ShownFit:
    """A row that is shown in pictures."""

    title: str
    line: str
    """Its name and errors."""
    figures: list[Figure]
    scene: dict[str, Any]
    """For the viewer, `viewer.pack_scene`, with the gender whose faces it has."""


@dataclass(frozen=True)
class Pictures:
    """What needs body models."""

    fits: list[ShownFit]
    faces: dict[str, Any]
    """By gender, `viewer.pack_faces`."""
    measured: Measured | None
    """None where nothing was fitted."""
    surface: list[Figure]
    surface_high_mm: float
    high_mm: float
    """End of the colour scale of single fits."""
    three_js: str | None
    """The viewer's library, `viewer.three_js`; None for a page without a viewer."""


def render_page(
    dataset: Dataset,
    pictures: Pictures | None,
    out: Path,
    *,
    description: str = "",
    warnings: Sequence[str] = (),
) -> str:
    """The whole page as HTML.

    Args:
        dataset: what was gathered.
        pictures: None for a page of tables and charts only.
        out: where the page will be, for the links to the shards.
        description: of the dataset, for its head.
        warnings: what a reader must know first.
    """
    total, sources = tables.totals(dataset), tables.by_source(dataset)
    fitted = [one for one in sources if one["fitted"]]
    series = [
        Series(one["name"], one["color"], dataset.errors["v2v_mm"][dataset.fitted(one["name"])]) for one in fitted
    ]
    context: dict[str, Any] = {
        "version": __version__,
        "name": dataset.name,
        "description": description,
        "warnings": warnings,
        "total": total,
        "sources": sources,
        "series": series,
        "reasons": tables.by_reason(dataset),
        "shards": tables.by_shard(dataset, out),
        "statuses": _statuses(sources),
        "held": tables.held_dofs(dataset),
        "dofs": tables.all_dofs(dataset),
        "limits_name": dataset.limits,
        "betas_rms": float(np.sqrt(np.mean([bins.rms**2 for bins in dataset.betas]))),
        "about": _about(dataset),
        "command": f"hmr-skel report {dataset.folder}",
        "charts": _charts(dataset, series),
        "css": _asset("style.css"),
        "heat": heat_stops(),
    }
    context |= {"fits": [], "scenes": None, "parts": [], "surface": [], "measured": 0, "surface_high_mm": None}
    if pictures is not None:
        context |= _of_pictures(pictures)
        if pictures.measured is not None:
            context |= _of_parts(pictures, pictures.measured)
            context["charts"]["parts"] = _parts_chart(dataset, pictures.measured, series)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hmr_skel.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html").render(context)


def _charts(dataset: Dataset, series: Sequence[Series]) -> dict[str, Any]:
    limits_deg = np.rad2deg(limits(dataset.limits))
    speeds = {meta["shard"]: meta["rows_per_s"] for meta in dataset.metas if meta.get("rows_per_s")}
    reach = max(3.0, float(np.ceil(max(max(-b.quantile(0.001), b.quantile(0.999)) for b in dataset.betas))))
    return {
        "v2v": charts.histogram(series, "mm", "Histogram of the mean distance per row, by source") if series else None,
        "dofs": [
            {"title": group.title, "svg": charts.dof_ranges(group, dataset.angles, limits_deg)}
            for group in charts.DOF_GROUPS
        ],
        "betas": [
            {
                "rms": bins.rms,
                "svg": charts.small_histogram(bins, -reach, reach, f"Histogram of beta {i}", (-3.0, 0.0, 3.0)),
            }
            for i, bins in enumerate(dataset.betas)
        ],
        "speed": charts.columns(list(speeds.values()), list(speeds), "shard", "Rows a second by shard")
        if speeds
        else None,
        "parts": None,
    }


def _parts_chart(dataset: Dataset, measured: Measured, series: Sequence[Series]) -> str:
    source = dataset.source[measured.rows]
    rows = [
        (
            _part_title(part),
            [Series(one.name, one.color, values[source == dataset.sources.index(one.name)]) for one in series],
        )
        for part, values in measured.by_part_mm.items()
    ]
    return charts.spans(rows, "mm", "Mean distance by part of the body")


def _of_pictures(pictures: Pictures) -> dict[str, Any]:
    shown = {"fits": pictures.fits, "high_mm": pictures.high_mm}
    if pictures.three_js is None:
        return shown
    scenes = {
        "rows": [fit.scene for fit in pictures.fits],
        "faces": pictures.faces,
        "heat": heat_stops(33),
        "high_mm": pictures.high_mm,
    }
    return shown | {
        "scenes": json.dumps(scenes).replace("<", "\\u003c"),  # a name may hold </script>
        "three_js": pictures.three_js,
        "viewer_js": _asset("viewer.js"),
    }


def _of_parts(pictures: Pictures, measured: Measured) -> dict[str, Any]:
    return {
        "measured": len(measured.rows),
        "surface": pictures.surface,
        "surface_high_mm": pictures.surface_high_mm,
        "parts": [
            {"name": _part_title(part), "mm": statistics(values)} for part, values in measured.by_part_mm.items()
        ],
    }


def _part_title(part: str) -> str:
    return part.replace("_", " ")


def _statuses(sources: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Those that occur, with their words; `rejected` always."""
    found = {key for one in sources for key in one["status"]}
    unknown = sorted(found - set(STATUSES))
    known = [key for key in STATUSES if key in found]
    return [*((key, STATUSES[key]) for key in known), *((key, key) for key in unknown), ("rejected", "rejected")]


def _about(dataset: Dataset) -> list[tuple[str, str]]:
    """Terms and their meaning, and what the dataset was made with."""
    made_from = [meta["made_from"] for meta in dataset.metas]
    recipe = made_from[0]["recipe"]
    made = [f"{key} {recipe[key]}" for key in ("shape", "root", "limits") if key in recipe]
    differ = any(one["recipe"] != recipe for one in made_from)
    versions = sorted({version_text(one) for one in made_from})
    lines = [
        ("v2v", "mean distance between the vertices of the fitted SKEL skin and those of the annotated SMPL mesh, mm"),
        (
            "its floor",
            "SKEL has fewer degrees of freedom than SMPL, within ranges, and another shape space: no pose reaches 0",
        ),
        ("converged", "no angle would move any more; at a limit: likewise, with at least one held by its range"),
        ("steps ran out", "usable, but not at its minimum"),
        ("given as SKEL", "the label held SKEL already: it passed through, was not fitted, and has no error"),
        ("rows/s", "rows read / seconds of reading, fitting and writing, without the time a shard waited for others"),
        ("recipe", ", ".join(made) + ("; not the same in all shards" if differ else "")),
        ("made by", "hmr-skel, " + "; ".join(versions)),
        ("read back", f"hmr_skel.load_shards({str(dataset.folder)!r}); pandas, Polars and DuckDB open data/*.parquet"),
        ("checked by", f"hmr-skel verify {dataset.folder}"),
    ]
    return [(term, text) for term, text in lines if text]


def _asset(name: str) -> str:
    return (resources.files("hmr_skel.report") / "templates" / name).read_text(encoding="utf-8")
