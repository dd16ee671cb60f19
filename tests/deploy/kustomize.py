"""The small part of kustomize that deploy/kubernetes uses, for tests on machines without it; anything else is refused.

`python -m tests.deploy.kustomize FOLDER [KUSTOMIZE]` renders a folder, or compares with what the real program makes of it.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

Doc = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "resources", "components", "configMapGenerator", "images", "patches"}
_NAMED_BY = ("name", "mountPath", "containerPort", "key")


def build(folder: Path) -> list[Doc]:
    """The documents of one kustomization; ConfigMaps keep their names without the digest of their content.

    Raises:
        ValueError: something is used that is not known here.
    """
    made: list[Doc] = []
    _add(folder, made)
    return made


def _add(folder: Path, made: list[Doc]) -> None:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    if unknown := set(plan) - KNOWN:
        raise ValueError(f"{folder}: {sorted(unknown)}")
    for name in plan.get("resources", []):
        place = folder / name
        made += build(place) if place.is_dir() else filter(None, yaml.safe_load_all(place.read_text("utf-8")))
    for made_from in plan.get("configMapGenerator", []):
        data = {name: (folder / name).read_text("utf-8") for name in made_from["files"]}
        made.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made_from["name"]}, "data": data})
    for name in plan.get("components", []):
        _add(folder / name, made)
    for patch in plan.get("patches", []):
        _patch(made, folder, patch)
    for image in plan.get("images", []):
        _rename(made, image)
    for doc in made if "namespace" in plan else ():
        if doc["kind"] != "Namespace":
            doc["metadata"]["namespace"] = plan["namespace"]


def _rename(made: list[Doc], image: Doc) -> None:
    for container in (c for doc in made for c in containers(doc)):
        if image["name"] in (container["image"], container["image"].rpartition(":")[0]):
            container["image"] = f"{image['newName']}:{image['newTag']}"


def _patch(made: list[Doc], folder: Path, patch: Doc) -> None:
    target = patch["target"]
    if unknown := set(target) - {"kind", "name", "labelSelector"}:
        raise ValueError(f"{folder}: {sorted(unknown)}")
    change = yaml.safe_load((folder / patch["path"]).read_text("utf-8"))
    hit = 0
    for number, doc in enumerate(made):
        labels = doc["metadata"].get("labels", {})
        wanted = dict([target["labelSelector"].split("=")]) if "labelSelector" in target else {}
        if doc["kind"] == target["kind"] and target.get("name", doc["metadata"]["name"]) == doc["metadata"]["name"] and wanted.items() <= labels.items():  # fmt: skip
            made[number] = _merge(doc, {"spec": change["spec"]})
            hit += 1
    if not hit:
        raise ValueError(f"{folder}: {patch['path']} changes nothing")


def _merge(old: Any, new: Any) -> Any:
    """Strategic merge: objects by key, lists of named objects by that name, everything else is replaced."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {k: _merge(old[k], new[k]) if k in old and k in new else copy.deepcopy(new.get(k, old.get(k))) for k in {**old, **new}}  # fmt: skip
    if isinstance(old, list) and isinstance(new, list) and old and isinstance(old[0], dict):
        by = next(key for key in _NAMED_BY if key in old[0])
        changes = {item[by]: item for item in new}
        kept = [_merge(item, changes.pop(item[by])) if item[by] in changes else item for item in old]
        return kept + [copy.deepcopy(item) for item in changes.values()]
    return copy.deepcopy(new)


def containers(doc: Doc) -> list[Doc]:
    """The containers of a workload, none of anything else."""
    pod = doc.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def main(arguments: Sequence[str]) -> int:
    """Render, or compare."""
    mine = build(Path(arguments[0]))
    if len(arguments) == 1:
        print(yaml.safe_dump_all(mine))
        return 0
    said = subprocess.run([arguments[1], "build", arguments[0]], check=True, capture_output=True, text=True).stdout
    theirs = {_key(doc): doc for doc in yaml.safe_load_all(said)}
    differ = [
        key for key, doc in {_key(doc): doc for doc in mine}.items() if _plain(doc) != _plain(theirs.pop(key, {}))
    ]
    print(f"{len(mine)} documents; differ: {differ or 'none'}; only theirs: {sorted(theirs) or 'none'}")
    return 1 if differ or theirs else 0


def _key(doc: Doc) -> tuple[str, str]:
    name = doc["metadata"]["name"]
    return doc["kind"], name.rpartition("-")[0] if doc["kind"] == "ConfigMap" and name[-10:].isalnum() else name


def _plain(value: Any) -> Any:
    """Without the digests in ConfigMaps' names, and without the order of lists of named objects."""
    if isinstance(value, dict):
        plain = {k: _plain(v) for k, v in value.items()}
        name = plain.get("name")
        if isinstance(name, str) and "-config" in name:
            plain["name"] = name.partition("-config")[0] + "-config"
        return plain
    if isinstance(value, list):
        return sorted((_plain(v) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
