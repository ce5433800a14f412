"""The import of MLflow, where no other thread can come in between."""

from contextlib import suppress
from functools import cache
from importlib import import_module


@cache
def load(*, file: bool) -> None:
    """Import what an `Experiment` needs of MLflow, and of what MLflow itself needs.

    MLflow's modules import each other in circles. Two threads that meet inside such a circle
    break each other's import, and Tune imports MLflow in the main thread whether asked to or
    not. So this is to be called there, before another thread may need it.

    Args:
        file: Whether the experiment is in a database file of MLflow's own.
    """
    names = ["mlflow.models", "mlflow.tracking"]
    if file:
        names += ["mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store"]
        names += ["mlflow.store.model_registry.sqlalchemy_store"]
    else:
        names += ["mlflow.store.tracking.rest_store", "mlflow.store.model_registry.rest_store"]
    with suppress(ImportError):  # which opening the experiment meets again, and tells
        for name in names:
            import_module(name)
