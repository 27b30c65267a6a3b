"""COCO ids: those of the images' own JSON or of a ground truth, else 1, 2, 3, ...; categories by data set or name."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from m2f_batch.errors import UsageError
from m2f_batch.storage.run import RunDirectory
from m2f_batch.storage.store import open_store


@dataclass(frozen=True)
class CocoIds:
    """How a run's images and labels are numbered in an export.

    ``image_id`` maps (uri, 1-based position by uri) to an id, or None for an image the ground truth does not hold;
    ``category_ids`` maps label ids to category ids, and lacks labels that the ground truth does not name.
    """

    image_id: Callable[[str, int], int | None]
    category_ids: dict[int, int]
    categories: list[dict[str, Any]]


def coco_ids(run: RunDirectory, info: dict[str, Any], ground_truth: str | None) -> CocoIds:
    """The numbering of a run's export; raises UsageError for a ground truth that cannot be read."""
    labels = info["categories"]
    if ground_truth is not None:
        truth = _read_truth(ground_truth)
        by_name = {category["name"].strip(): category["id"] for category in truth["categories"]}
        category_ids = {label["id"]: by_name[label["name"]] for label in labels if label["name"] in by_name}
        if not category_ids:
            raise UsageError(
                f"--ground-truth {ground_truth}: none of its categories ({', '.join(list(by_name)[:5])}, ...) "
                f"has the name of a label of the model ({', '.join(label['name'] for label in labels[:5])}, ...)"
            )
        return CocoIds(_image_ids_of(truth["images"]), category_ids, truth["categories"])
    category_ids = {label["id"]: label["dataset_id"] for label in labels}
    return CocoIds(_own_image_ids(run), category_ids, [_category(label, info["task"]) for label in labels])


def _category(label: dict[str, Any], task: str) -> dict[str, Any]:
    category = {"id": label["dataset_id"], "name": label["name"], "supercategory": label["name"]}
    return category | ({"isthing": int(label["isthing"])} if task == "panoptic" else {})


def _own_image_ids(run: RunDirectory) -> Callable[[str, int], int | None]:
    manifest = run.read_manifest()
    if "coco_id" not in manifest.column_names:
        return lambda uri, position: position
    ids = dict(zip(manifest["uri"].to_pylist(), manifest["coco_id"].to_pylist(), strict=True))
    return lambda uri, position: ids[uri]


def _image_ids_of(images: list[dict[str, Any]]) -> Callable[[str, int], int | None]:
    """Ids by file name: the whole of it where a uri ends with it, else its last part where that is unique."""
    by_path = {image["file_name"]: image["id"] for image in images}
    by_name: dict[str, int | None] = {}
    for image in images:
        name = PurePosixPath(image["file_name"]).name
        by_name[name] = None if name in by_name else image["id"]

    def find(uri: str, position: int) -> int | None:
        parts = uri.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((by_path[tail] for tail in tails if tail in by_path), by_name.get(parts[-1]))

    return find


def _read_truth(uri: str) -> dict[str, Any]:
    store = open_store(uri)
    if not store.exists(uri):
        raise UsageError(f"--ground-truth {uri}: there is no such file; give a COCO JSON")
    try:
        tree = json.loads(store.read(uri))
    except ValueError as error:
        raise UsageError(f"--ground-truth {uri}: is not JSON ({error})") from None
    if not isinstance(tree, dict) or not {"images", "categories"} <= tree.keys():
        raise UsageError(f"--ground-truth {uri}: must be a COCO JSON with 'images' and 'categories'")
    return tree
