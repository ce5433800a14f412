"""MLflow's registry of models, of which each scenario has one, and the alias ``best``."""

from collections.abc import Callable, Mapping
from typing import Any

ALIAS = "best"
MODEL = "ulrl.logged_model"  # tag of a version: not every store says which model it is


def found(get: Callable[..., Any], *arguments: Any) -> Any:
    """Return what MLflow gives, or None if it has no such thing."""
    try:
        return get(*arguments)
    except Exception as error:
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return None
        raise


def register(client: Any, name: str, model: str, run: str, tags: Mapping[str, str]) -> None:
    """Let the alias of a registered model point to a logged model.

    A logged model is one version, however often this is said; versions whose model has been
    deleted since go.

    Args:
        client: MLflow's client.
        name: Of the registered model, which is made if absent.
        model: Id of the logged model.
        run: Id of the run that it belongs to.
        tags: Of what is made.
    """
    if found(client.get_registered_model, name) is None:
        client.create_registered_model(name, tags=dict(tags))
    known = client.search_model_versions(f"name = '{name}'")
    versions = {one.tags[MODEL]: one for one in known if MODEL in one.tags}
    if model not in versions:
        # By its place: by its id, MLflow would look for it where the process tracks by default.
        place = client.get_logged_model(model).artifact_location
        versions[model] = client.create_model_version(
            name, place, run, tags={**tags, MODEL: model}, model_id=model
        )
    client.set_registered_model_alias(name, ALIAS, versions[model].version)
    for other, version in versions.items():
        if other != model and found(client.get_logged_model, other) is None:
            client.delete_model_version(name, version.version)
