"""COCO ids: those of the images' own JSON or of a ground truth, else 1, 2, 3, ...; categories by data set or name."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from m2f_batch.errors import UsageError
from m2f_batch.labels import find_label_set
from m2f_batch.storage.places import open_store
from m2f_batch.storage.run import RunDirectory
from m2f_batch.storage.store import ObjectError, StoreUnavailable


@dataclass(frozen=True)
class CocoIds:
    """How a run's images and labels are numbered in an export.

    ``image_id`` maps (uri, 1-based position by uri) to an id, or None for an image the ground truth does not hold;
    ``category_ids`` maps label ids to category ids, and lacks labels that the ground truth does not name.
    ``unmatched`` collects, as images are numbered, the uris that the ground truth does not hold.
    """

    image_id: Callable[[str, int], int | None]
    category_ids: dict[int, int]
    categories: list[dict[str, Any]]
    unmatched: set[str] = field(default_factory=set)


def coco_ids(run: RunDirectory, info: dict[str, Any], ground_truth: str | None) -> CocoIds:
    """The numbering of a run's export; raises UsageError for a ground truth that cannot be read."""
    labels = info["categories"]
    if ground_truth is not None:
        truth = _read_truth(ground_truth)
        named = [(category["id"], category["name"]) for category in truth["categories"]]
        category_ids = category_ids_by_name(labels, named, ground_truth)
        unmatched: set[str] = set()
        return CocoIds(_image_ids_of(truth["images"], unmatched), category_ids, truth["categories"], unmatched)
    category_ids = {label["id"]: label["dataset_id"] for label in labels}
    return CocoIds(_own_image_ids(run, info), category_ids, [_category(label, info["task"]) for label in labels])


def category_ids_by_name(
    labels: Sequence[dict[str, Any]], named: Sequence[tuple[int, str]], ground_truth: str
) -> dict[int, int]:
    """Label ids to the ids of a ground truth's (id, name) pairs of the same name; labels that it lacks are left out.

    ``labels`` are the ``categories`` of run.json. Names of known label sets vary ("sofa" is COCO's "couch"): where most
    names are common, all with the set's own ids, the other labels are matched by those. Raises UsageError where no name
    is common.
    """
    by_name = {name.strip(): number for number, name in named}
    found = {label["id"]: by_name[label["name"]] for label in labels if label["name"] in by_name}
    if not found:
        raise UsageError(
            f"--ground-truth {ground_truth}: none of its categories ({', '.join(list(by_name)[:5])}, ...) "
            f"has the name of a label of the model ({', '.join(label['name'] for label in labels[:5])}, ...)"
        )
    own = {label["id"]: label["dataset_id"] for label in labels}
    is_known = find_label_set({label["id"]: label["name"] for label in labels}) is not None
    if is_known and 2 * len(found) > len(named) and all(own[label] == number for label, number in found.items()):
        free = {number for number, _ in named} - {*found.values()}
        found |= {label: number for label, number in own.items() if label not in found and number in free}
    return found


def _category(label: dict[str, Any], task: str) -> dict[str, Any]:
    category = {"id": label["dataset_id"], "name": label["name"], "supercategory": label["name"]}
    return category | ({"isthing": int(label["isthing"])} if task == "panoptic" else {})


def _own_image_ids(run: RunDirectory, info: dict[str, Any]) -> Callable[[str, int], int | None]:
    manifest = run.read_manifest()
    # a manifest's own column may have that name too, and a folder may be called x.json
    if "coco_id" not in manifest.column_names or not info["config"]["input"]["uri"].lower().endswith(".json"):
        return lambda uri, position: position
    ids = dict(zip(manifest["uri"].to_pylist(), manifest["coco_id"].to_pylist(), strict=True))
    return lambda uri, position: ids[uri]


def _image_ids_of(images: list[dict[str, Any]], unmatched: set[str]) -> Callable[[str, int], int | None]:
    """Ids by file name: the whole of it where a uri ends with it, else its last part where that is unique.

    The function raises UsageError for a second image of one id.
    """
    by_path = {image["file_name"].removeprefix("./"): image["id"] for image in images}
    by_name: dict[str, int | None] = {}
    for image in images:
        name = PurePosixPath(image["file_name"]).name
        by_name[name] = None if name in by_name else image["id"]
    taken: dict[int, str] = {}

    def find(uri: str, position: int) -> int | None:
        parts = uri.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        image_id = next((by_path[tail] for tail in tails if tail in by_path), by_name.get(parts[-1]))
        if image_id is None:
            unmatched.add(uri)
        elif taken.setdefault(image_id, uri) != uri:
            raise UsageError(f"--ground-truth: its image {image_id} may be {taken[image_id]!r} or {uri!r}")
        return image_id

    return find


def _read_truth(uri: str) -> dict[str, Any]:
    try:
        tree = json.loads(open_store(uri).read(uri))
    except (UsageError, ObjectError, StoreUnavailable) as error:
        raise UsageError(f"--ground-truth {uri}: {error}; give a COCO JSON") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--ground-truth {uri}: is not JSON ({error})") from None
    for part, fields in (("images", {"id": int, "file_name": str}), ("categories", {"id": int, "name": str})):
        items = tree.get(part) if isinstance(tree, dict) else None
        if not isinstance(items, list) or not all(_has(item, fields) for item in items):
            raise UsageError(
                f"--ground-truth {uri}: must be a COCO JSON: a list {part!r}, each with {' and '.join(fields)}"
            )
    return tree


def _has(item: Any, fields: dict[str, type]) -> bool:
    return isinstance(item, dict) and all(type(item.get(name)) is kind for name, kind in fields.items())
