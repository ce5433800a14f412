"""Errors of the library's own, for callers to catch."""

from collections.abc import Mapping

from torch import Tensor


class DivergedError(ArithmeticError):
    """A network, or what is trained with it, has values that are not finite (NaN or infinite).

    Such a network predicts nothing: its accuracy and its scores would be chance or artefacts,
    so there is no result. The text names the stage, where it is known the epoch, and what may
    help.
    """


class NotApplicable(ValueError):  # noqa: N818 - what is so of a network, not what went wrong
    """A repair method or an audit does not apply to a network, as only running it could tell.

    The text is the reason. What `RepairMethod.check` can tell without numbers is refused before.
    """


def raise_unless_finite(tensors: Mapping[str, Tensor], what: str, remedy: str = "") -> None:
    """Raise `DivergedError` if a tensor that a training made is not finite.

    Args:
        tensors: Of the result, by name.
        what: What was trained, as the error calls it.
        remedy: What may help, with what parts it from the rest.
    """
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise DivergedError(f"{what} diverged ({name} is not finite){remedy}")
