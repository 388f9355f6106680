"""Report a run: a progress bar, a line of JSON every few steps, the same for TensorBoard, and curves."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from hmr_skel.data.atomic import replacing
from hmr_skel.progress import SECONDS_PER_LINE
from hmr_skel.train.distributed import Group

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
PLAIN_LINES = 20
"""The number of progress lines that a run prints without a terminal."""


class RunLog:
    """The log of one run, in its folder; only the first process writes. Use it in a `with`.

    Attributes:
        last: the unweighted losses of the last line, means over its steps and over processes.
        images_per_s: the speed of this process, without its first steps (up to the first line) if there are others.
    """

    def __init__(self, out: Path, start: int, steps: int, batch_size: int, writes: bool, quiet: bool) -> None:
        """Continue the log in `out` after step `start`, and remove later lines of an earlier attempt."""
        self.last: dict[str, float] = {}
        self.images_per_s = 0.0
        self._steps, self._batch_size, self._quiet = steps, batch_size, quiet
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._start = self._from = self._settled = start
        self._clock = self._settled_clock = time.perf_counter()
        self._lines, self._said = start * PLAIN_LINES // steps, self._clock
        self._file = self._tensorboard = None
        if writes:
            keep_until(out / LOG, start)
            self._file = (out / LOG).open("a")
            self._tensorboard = _summary_writer(out, start)
        self._bar = tqdm(
            total=steps * batch_size, initial=start * batch_size, unit="img", unit_scale=True, smoothing=0.1,
            disable=True if quiet or not writes else None,
        )  # fmt: skip
        self._plain = writes and not quiet and self._bar.disable

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the losses of a step, without reading them from the device."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._count += 1

    def advance(self) -> None:
        """Count a finished step."""
        self._bar.update(self._batch_size)

    def write(self, step: int, group: Group, mfu_per_image_rate: float, more: Mapping[str, float | int]) -> None:
        """Write a line after `step` steps, with means since the last one. All processes must call it together."""
        names = list(self._sums)
        means = torch.stack([self._sums[name].float() for name in names]) / self._count if names else torch.empty(0)
        values = dict(zip(names, group.mean(means).tolist(), strict=True))  # waits for the device
        now = time.perf_counter()
        speed = (step - self._from) * self._batch_size / (now - self._clock)
        if (
            self._from == self._start
        ):  # the first steps start workers and compile, so they count only if there are no others
            self._settled, self._settled_clock, self.images_per_s = step, now, speed
        else:
            self.images_per_s = (step - self._settled) * self._batch_size / (now - self._settled_clock)
        self._clock, self._from, self._sums, self._count = now, step, {}, 0
        self.last = values or self.last
        line = {"step": step, **values, **more, "images_per_s": speed, "mfu": speed * mfu_per_image_rate}
        if self._file is not None:
            self._file.write(json.dumps({key: round(value, 7) for key, value in line.items()}) + "\n")
            self._file.flush()
        if self._tensorboard is not None:
            for name, value in line.items():
                self._tensorboard.add_scalar(name, value, step)
        self._show(step, line)

    def _show(self, step: int, line: Mapping[str, float | int]) -> None:
        text = f"loss {line['loss']:.4g}, " if "loss" in line else ""
        text += f"MFU {100 * line['mfu']:.1f} %"
        self._bar.set_postfix_str(text, refresh=False)
        due = step * PLAIN_LINES // self._steps
        if self._plain and (due > self._lines or self._clock - self._said >= SECONDS_PER_LINE):
            left = (self._steps - step) * self._batch_size / max(self.images_per_s, 1e-9)
            print(f"step {step:,} of {self._steps:,}: {text}, {self.images_per_s:.1f} images/s, "
                  f"{tqdm.format_interval(left)} left", flush=True)  # fmt: skip
            self._lines, self._said = due, self._clock


def read_log(path: Path) -> list[dict[str, float | int]]:
    """The lines of a log, without a last line that a crash has cut."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or type(line.get("step")) is not int:
            break
        lines.append(line)
    return lines


def keep_until(path: Path, step: int) -> None:
    """Remove the lines after that step from a log, since a resumed run writes them again."""
    kept = [line for line in read_log(path) if line["step"] <= step]
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))


def _summary_writer(out: Path, start: int) -> "SummaryWriter | None":
    """The writer for TensorBoard; None if TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)


_PANELS = (
    ("loss", ("loss",)),
    ("2D keypoints (crop sides, sum)", ("coarse/keypoints_2d", "final/keypoints_2d")),
    ("3D keypoints (m, sum)", ("coarse/keypoints_3d", "final/keypoints_3d")),
    ("body rotations (L1, sum)", ("coarse/body", "final/body", "refine")),
    ("pelvis rotation (L1, sum)", ("coarse/pelvis", "final/pelvis")),
    ("images/s", ("images_per_s",)),
)


def plot_log(log: Path, picture: Path) -> bool:
    """Draw the log of a run. Returns False, without a picture, if matplotlib is missing or the log is empty."""
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
