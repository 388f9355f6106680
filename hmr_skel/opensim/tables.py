"""OpenSim's tables over time: coordinates (`.mot`) and marker trajectories (`.trc`)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmr_skel.body.dofs import DOF_NAMES
from hmr_skel.data.atomic import replacing
from hmr_skel.opensim.joints import PELVIS_TRANSLATION
from hmr_skel.opensim.person import Motion

COLUMNS = ("time", *DOF_NAMES[:3], *PELVIS_TRANSLATION, *DOF_NAMES[3:])

_MOT_HEADER = """\
{name}
version=1
nRows={rows}
nColumns={columns}
inDegrees=yes

Units are S.I. units (second, meters, Newtons, ...)
Angles are in degrees.
Made by hmr-skel from {source}. Ground frame: x forward, y up, z right; pelvis_t* is SKEL's pelvis joint.
From that file's frame to the ground: (x, y, z) -> ({turn}).
{gaps}{model}
endheader
"""
OWN_MODEL = (
    "For the model {name}.osim, which `hmr-skel convert` writes with `-o {name}.osim`: SKEL's signs, order and zeros "
    "(zero is\nSMPL's T-pose). Other models with coordinates of these names turn about them in another order, from "
    "other zeros."
)


def write_mot(motion: Motion, path: Path) -> None:
    """Write the motion for the person's own model: degrees and metres.

    Format: OpenSim's documentation, "Motion (.mot) Files", form 2: a name, `nRows=`, `nColumns=`, comments,
    `endheader`, then a line of labels and the data, all separated by tabs.

    Raises:
        UserError: the file cannot be written.
    """
    degrees = np.degrees(motion.q.astype(np.float64))
    table = np.concatenate((motion.time[:, None], degrees[:, :3], motion.pelvis, degrees[:, 3:]), 1)
    write_mot_table(motion, COLUMNS, table, OWN_MODEL.format(name=path.stem), path)


def write_mot_table(motion: Motion, columns: Sequence[str], table: np.ndarray, model: str, path: Path) -> None:
    """Write a table [N C] under these labels. `model` says which model it is for."""
    size = {"rows": len(table), "columns": len(columns)}
    turn = ", ".join(map(_formula, motion.from_input))
    gaps = f"Frames are missing, and times jump: {motion.gaps}.\n" if motion.gaps else ""
    header = _MOT_HEADER.format(name=motion.name, source=motion.source, turn=turn, gaps=gaps, model=model, **size)
    with replacing(path) as temporary, temporary.open("w", newline="\n") as file:
        file.write(header + "\t".join(columns) + "\n")
        np.savetxt(file, table, fmt="%.8f", delimiter="\t")


def _formula(row: np.ndarray) -> str:
    """A row [4] of a transform in words: `-1 y +0.9`."""
    terms = zip(row.tolist(), (" x", " y", " z", ""), strict=True)
    return " ".join(f"{factor:+.6g}{axis}" for factor, axis in terms if abs(factor) > 1e-7)


def write_trc(motion: Motion, names: Sequence[str], places: np.ndarray, path: Path) -> None:
    """Write marker trajectories, in mm.

    Args:
        motion: whose times, name and source the file gets.
        names: M markers.
        places: [N M 3] m, in the ground frame.
        path: ends in .trc; it appears by rename.

    Raises:
        UserError: the file cannot be written.
    """
    rate, frames = f"{motion.frame_rate:.6f}", len(places)
    keys = {
        "DataRate": rate, "CameraRate": rate, "NumFrames": frames, "NumMarkers": len(names), "Units": "mm",
        "OrigDataRate": rate, "OrigDataStartFrame": 1, "OrigNumFrames": frames,
    }  # fmt: skip
    axes = "\t".join(f"X{i}\tY{i}\tZ{i}" for i in range(1, len(names) + 1))
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{path.name}", "\t".join(keys), "\t".join(map(str, keys.values())),
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t", f"\t\t{axes}", "",
    ]  # fmt: skip
    numbers = np.arange(1, frames + 1)[:, None]
    table = np.concatenate((numbers, motion.time[:, None], places.reshape(frames, -1) * 1000), 1)
    with replacing(path) as temporary, temporary.open("w", newline="\n") as file:
        file.write("\n".join(lines) + "\n")
        np.savetxt(file, table, fmt=["%d", "%.8f", *["%.4f"] * (3 * len(names))], delimiter="\t")
