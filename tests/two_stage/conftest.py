"""The stand-in benchmarks, and bodies to convert to."""

from tests.convert.conftest import _bodies_once, _one_thread, bodies
from tests.evaluate.conftest import male, opened, stand_in

__all__ = ["_bodies_once", "_one_thread", "bodies", "male", "opened", "stand_in"]
