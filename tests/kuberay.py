"""The schemas of KubeRay's custom resources, reduced to what a check of manifests needs.

``kuberay.json`` holds them. To make it again from checkouts of KubeRay (one per version):
    python -m tests.kuberay 1.5.1=FOLDER 1.7.0=FOLDER
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_suffix(".json")
NOTE = (
    "From https://github.com/ray-project/kuberay, ray-operator/config/crd/bases/"
    "ray.io_rayclusters.yaml and ray.io_rayjobs.yaml, Apache License 2.0 "
    "(http://www.apache.org/licenses/LICENSE-2.0). Changed: version v1 alone, as JSON Schema "
    "2020-12, without descriptions, defaults, status and rules in CEL; equal parts stand once."
)
USED = ("type", "enum", "pattern", "minimum", "minLength", "maxLength", "minItems", "required")
WORTH = 60  # characters from which on a part that occurs twice is written once


def converted(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a part of a CRD's schema as JSON Schema, in which unknown fields are mistakes.

    The API server refuses them too where the client asks for it, as ``kubectl`` does.
    """
    made = {name: schema[name] for name in USED if name in schema}
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    if "anyOf" in schema:
        made["anyOf"] = schema["anyOf"]
    if "items" in schema:
        made["items"] = converted(schema["items"])
    if "properties" in schema:
        made["properties"] = {name: converted(one) for name, one in schema["properties"].items()}
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = converted(schema["additionalProperties"])
    return made


def reduced(folder: Path) -> dict[str, Any]:
    """Return the schemas of a checkout by kind."""
    found = {}
    for name in ("rayclusters", "rayjobs"):
        path = folder / "ray-operator" / "config" / "crd" / "bases" / f"ray.io_{name}.yaml"
        crd = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        (version,) = (one for one in crd["versions"] if one["name"] == "v1")
        schema = converted(version["schema"]["openAPIV3Schema"])
        del schema["properties"]["status"]
        found[crd["names"]["kind"]] = schema
    return found


def shared(schemas: Any) -> dict[str, Any]:
    """Return schemas with each part that occurs more than once in ``$defs``."""

    def parts(value: Any) -> Any:
        for one in value.values() if isinstance(value, dict) else ():
            yield from parts(one)
        if isinstance(value, dict):
            yield json.dumps(value, sort_keys=True)

    count = Counter(parts(schemas))
    names: dict[str, str] = {}
    made: dict[str, Any] = {}

    def replaced(value: Any, *, schema: bool) -> Any:
        if not isinstance(value, dict):
            return value
        text = json.dumps(value, sort_keys=True)
        alike = schema and count[text] > 1 and len(text) > WORTH
        if alike and text in names:
            return {"$ref": f"#/$defs/{names[text]}"}
        inner = {
            name: replaced(one, schema=not schema or name in ("items", "additionalProperties"))
            for name, one in value.items()
        }
        if not alike:
            return inner
        names[text] = str(len(names))
        made[names[text]] = inner
        return {"$ref": f"#/$defs/{names[text]}"}

    kinds = {
        version: {kind: replaced(one, schema=True) for kind, one in there.items()}
        for version, there in schemas.items()
    }
    return {"versions": kinds, "$defs": made}


def schema_of(version: str, kind: str) -> dict[str, Any]:
    """Return the schema of a kind of resource in a version of KubeRay."""
    all_of_it = json.loads(FILE.read_text(encoding="utf-8"))
    found: dict[str, Any] = all_of_it["versions"][version][kind] | {"$defs": all_of_it["$defs"]}
    return found


def versions() -> list[str]:
    """Return the versions whose schemas are there, the oldest first."""
    return list(json.loads(FILE.read_text(encoding="utf-8"))["versions"])


if __name__ == "__main__":
    places = dict(argument.split("=", 1) for argument in sys.argv[1:])
    content = {"note": NOTE} | shared({name: reduced(Path(at)) for name, at in places.items()})
    lines = json.dumps(content, indent=0, separators=(",", ":"))
    FILE.write_text(f"{lines}\n", encoding="utf-8")
