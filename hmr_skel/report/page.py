"""Make a page from a gathered dataset: measure, draw, fill the template, and write one file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from hmr_skel import __version__
from hmr_skel.body.dofs import limits
from hmr_skel.data.atomic import replacing
from hmr_skel.data.manifest import Manifest
from hmr_skel.data.meta import statistics
from hmr_skel.render.body import heat_stops
from hmr_skel.report import charts, tables
from hmr_skel.report.bodies import Measured, choose_picks
from hmr_skel.report.charts import Series
from hmr_skel.report.gather import Dataset
from hmr_skel.report.pictures import Pictures, draw_pictures

AGREES_MM = 0.01
"""Errors measured here may differ from those in the dataset by this, for float32 on another machine."""


@dataclass(frozen=True)
class ReportSummary:
    """The result of `write_report`."""

    file: str
    bytes: int
    rows: int
    rejected: int
    v2v_mm: dict[str, float] | None
    v2v_max_mm: dict[str, float] | None
    doubtful: int | None  # rows with status far or implausible; None for old datasets without these
    pictured: list[str]  # row_id of the shown rows
    measured: int  # rows whose errors were measured again
    disagreement_mm: float | None  # the largest difference between these and the dataset's
    warnings: list[str]


def write_report(
    dataset: Dataset, manifest: Manifest | None, out: Path, progress: Callable[[int], object] = lambda rows: None
) -> ReportSummary:
    """Write the page of a gathered dataset.

    Args:
        dataset: from `gather`.
        manifest: names the body models and images; None for a page without pictures.
        out: the file; it appears by rename.
        progress: called with the number of new rows, of `len(choose_sample(dataset))` in all.

    Raises:
        UserError: a body model is missing or damaged, or the file cannot be written.
    """
    pictures, warnings = None, []
    if manifest is not None:
        pictures = draw_pictures(dataset, manifest, progress)
        if (apart := _disagreement(dataset, pictures)) is not None and apart > AGREES_MM:
            warnings.append(
                f"Errors measured with the body models in {manifest.body_models.path} differ from the dataset's by up "
                f"to {apart:.2f} mm: it was made with other models, so the pictures do not show its rows."
            )
        if pictures.three_js is None:
            warnings.append(
                "The page has no 3D viewer: the installed trimesh does not have three.js in the expected place. "
                "Install the version of trimesh that constraints.txt names."
            )
    built = len(dataset.metas)
    if built < dataset.metas[0]["shards"]:
        warnings.append(f"The dataset is not finished: {built} of {dataset.metas[0]['shards']} shards are there.")
    if "push" not in dataset.rows.columns:
        warnings.append("The dataset is older than the statuses far and implausible: build it again to get them.")
    page = _render(dataset, pictures, out, manifest.description if manifest else "", warnings)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    total = tables.totals(dataset)
    return ReportSummary(
        file=str(out),
        bytes=out.stat().st_size,
        rows=total["kept"],
        rejected=total["rejected"],
        v2v_mm=total["v2v_mm"],
        v2v_max_mm=total["v2v_max_mm"],
        doubtful=total["doubtful"],
        pictured=[] if pictures is None else [dataset.rows[row]["row_id"] for row in choose_picks(dataset).values()],
        measured=0 if pictures is None or pictures.measured is None else len(pictures.measured.rows),
        disagreement_mm=None if pictures is None else _disagreement(dataset, pictures),
        warnings=warnings,
    )


def _render(dataset: Dataset, pictures: Pictures | None, out: Path, description: str, warnings: Sequence[str]) -> str:
    """The whole page as HTML; `out` is its path, for links to the shards."""
    total, sources = tables.totals(dataset), tables.by_source(dataset)
    made = [meta["made_from"] for meta in dataset.metas]
    recipe = made[0]["recipe"]
    settings = ", ".join(f"{key} {recipe[key]}" for key in ("shape", "root", "limits") if key in recipe)
    differ = any(one["recipe"] != recipe for one in made)
    versions = sorted({(str(one.get("fit_version")), str(one.get("schema_version"))) for one in made})
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
        "limits_of": {"anatomical": "hmr-skel", "skel": "SKEL", "hsmr": "HSMR"}[dataset.limits],
        "betas_rms": float(np.sqrt(np.mean([bins.rms**2 for bins in dataset.betas]))),
        "recipe": settings + ("; not the same in all shards" if differ else ""),
        "versions": [f"fit version {fit}, schema version {schema}" for fit, schema in versions],
        "folder": dataset.folder,
        "command": f"hmr-skel report {dataset.folder}",
        "charts": _charts(dataset, series),
        "css": _asset("style.css"),
        "heat": heat_stops(),
    }
    context |= {"fits": [], "scenes": None, "parts": {}, "surface": [], "measured": 0, "surface_high_mm": None}
    if pictures is not None:
        context |= {name: getattr(pictures, name) for name in ("fits", "high_mm", "surface", "surface_high_mm")}
        if pictures.three_js is not None:
            context |= {"scenes": pictures.scenes, "three_js": pictures.three_js, "viewer_js": _asset("viewer.js")}
        if (measured := pictures.measured) is not None:
            context["measured"], context["bones_outside"] = len(measured.rows), measured.bones_outside
            context["parts"] = {part: statistics(values) for part, values in measured.by_part_mm.items()}
            context["charts"]["parts"] = _parts_chart(dataset, measured, series)
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
            {"title": title, "svg": charts.dof_ranges(title, dataset.angles, limits_deg)} for title in charts.DOF_GROUPS
        ],
        "betas": [
            {
                "rms": bins.rms,
                "svg": charts.small_histogram(bins, -reach, reach, f"Histogram of beta {i}", (-3.0, 0.0, 3.0)),
            }
            for i, bins in enumerate(dataset.betas)
        ],
        "speed": charts.columns(list(speeds.values()), list(speeds), "shard", "Rows per second by shard")
        if speeds
        else None,
        "parts": None,
    }


def _parts_chart(dataset: Dataset, measured: Measured, series: Sequence[Series]) -> str:
    source = dataset.source[measured.rows]
    rows = []
    for part, values in measured.by_part_mm.items():
        own = [Series(one.name, one.color, values[source == dataset.sources.index(one.name)]) for one in series]
        rows.append((part.replace("_", " "), own))
    return charts.spans(rows, "mm", "Mean distance by part of the body")


def _statuses(sources: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """The statuses that occur, with their meaning, and always `rejected`."""
    found = {key for one in sources for key in one["status"]}
    unknown = sorted(found - set(tables.STATUSES))
    known = [key for key in tables.STATUSES if key in found]
    return [*((key, tables.STATUSES[key]) for key in known), *((key, key) for key in unknown), ("rejected", "rejected")]


def _asset(name: str) -> str:
    return (resources.files("hmr_skel.report") / "templates" / name).read_text(encoding="utf-8")


def _disagreement(dataset: Dataset, pictures: Pictures) -> float | None:
    if (measured := pictures.measured) is None:
        return None
    return float(np.abs(measured.v2v_mm - dataset.errors["v2v_mm"][measured.rows]).max())
