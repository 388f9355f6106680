"""A run's curves as one picture."""

from pathlib import Path

from hmr_skel.data.atomic import replacing
from hmr_skel.train.log import read_log

_PANELS = (
    ("loss", ("loss",)),
    ("2D keypoints (crop sides, sum)", ("coarse/keypoints_2d", "final/keypoints_2d")),
    ("3D keypoints (m, sum)", ("coarse/keypoints_3d", "final/keypoints_3d")),
    ("body rotations (L1, sum)", ("coarse/body", "final/body", "refine")),
    ("pelvis rotation (L1, sum)", ("coarse/pelvis", "final/pelvis")),
    ("images/s", ("images_per_s",)),
)


def plot_log(log: Path, picture: Path) -> bool:
    """Draw a run's log. False, and nothing is drawn, where matplotlib is not installed or the log is empty."""
    lines = read_log(log)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    if not lines:
        return False
    figure = Figure(figsize=(12, 6), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(names) > 1 and axes.lines:
            axes.legend(fontsize=8)
    with replacing(picture) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
    return True
