"""The figures of the SKEL-CF paper (arXiv 2511.20157v5, Tables 1 to 5 and S2), for printing beside ours.

Millimetres and shares of 1. Figures that the paper does not have are None.
"""

from dataclasses import dataclass

Values = tuple[float | None, ...]

MPJPE_PA = ("mpjpe_mm", "pa_mpjpe_mm")
MPJPE_PA_PVE = ("mpjpe_mm", "pa_mpjpe_mm", "pve_mm")
PCK = ("pck_05", "pck_10")


@dataclass(frozen=True)
class Column:
    """A column of a table: the metrics of one benchmark, which the paper prints in one cell."""

    benchmark: str
    metrics: tuple[str, ...]
    title: str = ""
    """The title of the column, if it is not that of the benchmark."""


@dataclass(frozen=True)
class Line:
    """A line of a table: one method. `cells` follow the table's columns; None: not reported."""

    method: str
    cells: tuple[Values | None, ...]
    details: tuple[str, ...] = ()
    before: str | None = None
    """For a method that converts SMPL, the line of Table 2 with its predictions before conversion. (The paper does not
    say which HMR2.0 it converted; 0b is the one that it lists with MOYO.)"""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper."""

    number: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    details: tuple[str, ...] = ()
    """The titles of the details of lines."""


_BIG_FIVE = tuple(Column(name, MPJPE_PA_PVE) for name in ("3dpw", "emdb", "spec-syn", "moyo", "moyo-hard"))
_SKEL_CF_MOYO, _SKEL_CF_HARD = (85.0, 51.4, 91.9), (90.0, 61.5, 102.5)

TABLE_1 = PaperTable(
    "1",
    "methods that give SKEL",
    tuple(Column(name, MPJPE_PA) for name in ("3dpw", "h36m-p2", "moyo", "moyo-hard")),
    (
        Line("HMR2.0 + SKEL fit", ((81.0, 54.4), (53.6, 34.1), (130.5, 93.7), None), before="HMR2.0b"),
        Line("CameraHMR + SKEL fit", ((70.4, 41.8), None, (75.5, 49.9), (88.7, 61.4)), before="CameraHMR"),
        Line("HSMR", ((81.5, 54.8), (50.4, 32.9), (104.5, 79.6), (120.0, 97.7))),
        Line("SKEL-CF", ((61.5, 38.7), (39.0, 31.2), (85.0, 51.4), (90.0, 61.5))),
    ),
)

TABLE_2 = PaperTable(
    "2",
    "methods that give SMPL or SKEL",
    _BIG_FIVE,
    (
        Line("SPEC", ((96.5, 53.2, 118.5), (138.9, 87.7, 161.3), (83.5, 56.9, 98.9), None, None)),
        Line("CLIFF", ((69.0, 43.0, 81.2), (103.5, 68.3, 123.7), (128.5, 55.8, 139.0), (154.6, 109.3, 155.7), None)),
        Line("HMR2.0a", ((69.8, 44.4, 82.2), (97.8, 61.5, 120.0), (133.3, 55.8, 153.0), None, None)),
        Line("TokenHMR", ((70.5, 43.8, 86.0), (88.1, 49.8, 104.2), (110.5, 51.8, 127.6), None, None)),
        Line("WHAM", ((57.8, 35.9, 68.7), (79.7, 50.4, 94.4), None, None, None)),
        Line("ReFit", ((57.6, 38.2, 67.6), (91.7, 55.5, 106.2), (103.6, 51.3, 116.3), None, None)),
        Line("CLIFF (second row)", ((72.0, 46.6, 85.0), (97.1, 61.3, 113.2), (109.9, 55.6, 124.6), None, None)),
        Line(
            "HMR2.0b",
            ((81.3, 54.3, 93.1), (118.5, 79.2, 140.6), (150.7, 67.6, 172.9), (123.3, 90.4, 142.2), None),
        ),
        Line(
            "CameraHMR",
            ((62.7, 38.7, 73.4), (73.2, 43.9, 85.6), (66.0, 37.0, 79.1), (85.1, 50.2, 95.3), (96.0, 61.9, 111.8)),
        ),
        Line("HSMR", ((81.5, 54.8, None), None, None, (104.5, 79.6, 120.1), (120.0, 97.7, 140.5))),
        Line(
            "SKEL-CF",
            ((61.5, 38.7, 73.5), (72.0, 44.5, 84.7), (69.4, 37.1, 83.4), _SKEL_CF_MOYO, _SKEL_CF_HARD),
        ),
    ),
)

TABLE_3 = PaperTable(
    "3",
    "2D keypoints",
    (Column("coco", PCK),),
    tuple(
        Line(method, (cell,))
        for method, cell in (
            ("PyMAF", (0.68, 0.86)),
            ("CLIFF", (0.64, 0.88)),
            ("PARE", (0.72, 0.91)),
            ("PyMAF-X", (0.79, 0.93)),
            ("HMR2.0a", (0.79, 0.94)),
            ("CameraHMR", (0.84, 0.94)),
            ("HSMR", (0.85, 0.96)),
            ("SKEL-CF", (0.80, 0.93)),
        )
    ),
)

TABLE_4 = PaperTable(
    "4",
    "ablation of the data, the camera, coarse to fine, and refinement",
    (Column("moyo", MPJPE_PA_PVE), Column("coco", PCK)),
    (
        Line("HSMR", ((104.5, 79.6, 120.1), (0.86, 0.96)), ("HMR2.0 + SKELify",)),
        Line("baseline + our data", ((88.8, 53.7, 97.0), (0.76, 0.91)), ("HMR-SKEL",)),
        Line("w/o Cam", ((89.5, 54.8, 97.9), (0.79, 0.93)), ("HMR-SKEL",)),
        Line("w/o C2F", ((84.7, 50.6, 91.7), (0.67, 0.91)), ("HMR-SKEL",)),
        Line("w/o Refine", ((86.2, 52.1, 93.5), (0.77, 0.92)), ("HMR-SKEL",)),
        Line("full", (_SKEL_CF_MOYO, (0.80, 0.93)), ("HMR-SKEL",)),
    ),
    ("data",),
)

TABLE_5 = PaperTable(
    "5",
    "supervision of the decoder's layers (also Table S1)",
    (Column("3dpw", MPJPE_PA_PVE), Column("moyo", MPJPE_PA_PVE), Column("moyo-hard", MPJPE_PA_PVE)),
    (
        Line("sparse", ((61.5, 38.7, 73.5), _SKEL_CF_MOYO, _SKEL_CF_HARD), ("L_refine", "6 x 1")),
        Line("full super.", ((61.3, 38.6, 73.3), (86.4, 53.2, 93.9), (92.1, 65.2, 105.6)), ("L_skel", "6 x 1")),
        Line("looped", ((62.5, 40.1, 74.8), (86.8, 54.4, 94.2), (96.8, 70.1, 111.5)), ("L_refine", "1 x 6")),
    ),
    ("loss", "layers x times"),
)

SWAP_XY, SWAP_S = "swap_xy", "swap_s"
TABLE_S2 = PaperTable(
    "S2",
    "COCO; the final estimate, its camera's tx, ty (A) or s (B) replaced by a decoder layer's",
    (Column(SWAP_XY, PCK, "(A) layer's tx, ty"), Column(SWAP_S, PCK, "(B) layer's s")),
    (
        Line("layer 0", ((0.1147, 0.4156), (0.0164, 0.0597))),
        Line("layer 1", ((0.0462, 0.2493), (0.0171, 0.0604))),
        Line("layer 2", ((0.0312, 0.1876), (0.0193, 0.0669))),
        Line("layer 3", ((0.1205, 0.6088), (0.0290, 0.1038))),
        Line("layer 4", ((0.5592, 0.8837), (0.0689, 0.2643))),
        Line("layer 5", ((0.8037, 0.9361), (0.8037, 0.9360))),
    ),
)


def implied_cost(line: Line, benchmark: str) -> float | None:
    """The cost of conversion to SKEL by Tables 1 and 2, mm of MPJPE; None if the paper does not say."""
    after = dict(zip([column.benchmark for column in TABLE_1.columns], line.cells, strict=True)).get(benchmark)
    names = [column.benchmark for column in TABLE_2.columns]
    found = [other.cells for other in TABLE_2.lines if other.method == line.before]
    before = dict(zip(names, found[0], strict=True)).get(benchmark) if found else None
    if after is None or before is None or after[0] is None or before[0] is None:
        return None
    return after[0] - before[0]
