"""Array types with their shapes, `Float[Tensor, "*batch 3"]`: jaxtyping's, or plain types where it is not installed.

The body models and the fit need torch and numpy only. The tests execute the shapes (see `pyproject.toml`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
else:
    try:
        from jaxtyping import Float, Int
    except ImportError:

        class _Unchecked:
            """`Float[Tensor, "N 3"]` is then `Tensor`."""

            def __class_getitem__(cls, item: tuple[type, str]) -> type:
                return item[0]

        Float = Int = _Unchecked

__all__ = ["Float", "Int"]
