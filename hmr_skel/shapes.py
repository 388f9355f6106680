"""Array types with shapes, such as `Float[Tensor, "*batch 3"]`, from jaxtyping; without it, plain array types.

So the body models and the fit need only torch and numpy. The tests check the shapes (see `pyproject.toml`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
else:
    try:
        from jaxtyping import Float, Int
    except ImportError:

        class _Unchecked:
            """Makes `Float[Tensor, "N 3"]` the plain `Tensor`."""

            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Float = Int = _Unchecked

__all__ = ["Float", "Int"]
