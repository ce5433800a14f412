"""Errors of the library's own, for callers to catch."""


class DivergedError(ArithmeticError):
    """A network, or what is trained with it, has values that are not finite (NaN or infinite).

    Such a network predicts nothing: its accuracy and its scores would be chance or artefacts,
    so there is no result. The text names the stage, where it is known the epoch, and what may
    help.
    """
