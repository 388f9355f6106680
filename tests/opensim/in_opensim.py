"""Files of ours as OpenSim reads them: what it warns of, and where it puts bodies."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@contextmanager
def warnings_of(opensim: Any, log: Path) -> Iterator[list[str]]:
    """What OpenSim warns of inside; the list is filled at the end."""
    warnings: list[str] = []
    opensim.Logger.setLevelString("warn")
    opensim.Logger.addFileSink(str(log))
    try:
        yield warnings
    finally:
        opensim.Logger.removeFileSink()
        warnings += [line for line in log.read_text().splitlines() if line]


class InOpenSim:
    """A model that OpenSim has loaded."""

    def __init__(self, opensim: Any, path: Path) -> None:
        self._opensim = opensim
        self.model = opensim.Model(str(path))
        self._state = self.model.initSystem()
        every = self.model.getCoordinateSet()
        self.coordinates = {every.get(i).getName(): every.get(i) for i in range(every.getSize())}

    def motion(self, mot: Path) -> tuple[list[str], np.ndarray]:
        """The coordinates of a .mot and their values [N C], rad and m, as OpenSim's tools take them."""
        table = self._opensim.TimeSeriesTable(str(mot))
        assert table.getTableMetaDataAsString("inDegrees") == "yes"
        names = list(table.getColumnLabels())
        turning = [self.coordinates[name].getMotionType() == 1 for name in names]
        return names, table.getMatrix().to_numpy() * np.where(turning, np.pi / 180, 1.0)

    def pose(self, values: Mapping[str, float]) -> None:
        """Set these coordinates, and all others to zero. Fails where one is clamped or locked."""
        for name, coordinate in self.coordinates.items():
            coordinate.setValue(self._state, float(values.get(name, 0.0)), False)
        for name, value in values.items():
            assert self.coordinates[name].getValue(self._state) == pytest.approx(value, abs=1e-9)
        self.model.realizePosition(self._state)

    def transforms(self, bodies: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Rotations [B 3 3] and places [B 3], m, of bodies in the ground."""
        found = [self.model.getBodySet().get(name).getTransformInGround(self._state) for name in bodies]
        rotations = [[[t.R().get(i, j) for j in range(3)] for i in range(3)] for t in found]
        return np.array(rotations), np.array([[t.p().get(i) for i in range(3)] for t in found])

    def markers(self) -> dict[str, np.ndarray]:
        """Marker -> where it is in the ground, m."""
        markers = [self.model.getMarkerSet().get(i) for i in range(self.model.getMarkerSet().getSize())]
        places = {marker.getName(): marker.getLocationInGround(self._state) for marker in markers}
        return {name: np.array([place.get(i) for i in range(3)]) for name, place in places.items()}

    def acceleration(self) -> np.ndarray:
        """The accelerations of all coordinates under gravity alone, moving at 1 rad/s: all functions' derivatives."""
        for coordinate in self.coordinates.values():
            coordinate.setSpeedValue(self._state, 1.0)
        self.model.realizeAcceleration(self._state)
        return self._state.getUDot().to_numpy()
