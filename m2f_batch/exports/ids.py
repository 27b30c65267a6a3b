"""Numbers images and categories of an export: as a COCO JSON or a ground truth does, else 1, 2, 3, ... by uri."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from m2f_batch.errors import UsageError
from m2f_batch.exports.categories import match_categories
from m2f_batch.inputs.coco_input import whole
from m2f_batch.inputs.names.near import near_pairs
from m2f_batch.messages.masking import redact
from m2f_batch.models.label_sets import Category as Label
from m2f_batch.runs.reader import Run
from m2f_batch.storage.json_text import parse_json
from m2f_batch.storage.places import open_store
from m2f_batch.storage.store import ObjectError, StoreUnavailable

CocoId = int | str  # a ground truth may number its images by texts, and keeps them


@dataclass(frozen=True)
class CocoIds:
    """The ids of an export, for the images and labels of a run.

    ``image_id`` maps (uri, 1-based position by uri) to an id, or None for an image the ground truth does not hold.
    ``category_ids`` maps label ids to category ids, and lacks labels that the ground truth does not name.
    ``unmatched`` collects, as images are numbered, the uris that the ground truth does not hold. ``written`` counts the
    segments by category id, and ``empty`` by label those that are left out since they have no pixel. ``notes`` say for
    a user how names were matched.
    """

    image_id: Callable[[str, int], CocoId | None]
    category_ids: dict[int, int]
    categories: list[dict[str, Any]]
    unmatched: set[str] = field(default_factory=set)
    written: Counter[int] = field(default_factory=Counter)
    empty: Counter[int] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()


def coco_ids(run: Run, ground_truth: str | None) -> CocoIds:
    """The numbering of a run's export.

    Raises UsageError for a ground truth that cannot be read, or that has no image or no category of the run.
    """
    labels = run.info.categories
    if ground_truth is None:
        category_ids = {label.id: label.dataset_id for label in labels}
        return CocoIds(_own_image_ids(run), category_ids, [_category(label, run.info.task) for label in labels])
    truth = _read_truth(ground_truth)
    named = [(category["id"], category["name"]) for category in truth["categories"]]
    match = match_categories(labels, named, ground_truth, _annotated(truth))
    listed = run.listed()["uri"].to_pylist()
    unmatched: set[str] = set()
    find, notes = _image_ids_of(truth["images"], listed, unmatched)
    if not any(find(uri, 0) is not None for uri in listed):
        names = [image["file_name"] for image in truth["images"]]
        shown = f"{names[0]!r}, ... and {listed[0]!r}, ..." if names and listed else "one of them lists none"
        raise UsageError(f"it and {run.uri} have no image in common ({shown})", field=f"--ground-truth {ground_truth}")
    unmatched.clear()
    return CocoIds(find, match.ids, truth["categories"], unmatched, notes=(*match.notes, *notes))


def _annotated(truth: dict[str, Any]) -> set[Any]:
    """The ids of categories that an annotation has."""
    entries = truth.get("annotations")
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    infos = [entry["segments_info"] for entry in found if isinstance(entry.get("segments_info"), list)]  # of panoptic
    found += [info for several in infos for info in several if isinstance(info, dict)]
    return {number for entry in found if isinstance(number := entry.get("category_id"), int | str)}


def _category(label: Label, task: str) -> dict[str, Any]:
    category = {"id": label.dataset_id, "name": label.name, "supercategory": label.name}
    return category | ({"isthing": int(label.isthing)} if task == "panoptic" else {})


def _own_image_ids(run: Run) -> Callable[[str, int], int | None]:
    manifest = run.listed()
    # a manifest's own column may have that name too, and a folder may be called x.json
    if "coco_id" not in manifest.column_names or not run.info.input_uri.lower().endswith(".json"):
        return lambda uri, position: position
    ids = dict(zip(manifest["uri"].to_pylist(), manifest["coco_id"].to_pylist(), strict=True))
    return lambda uri, position: ids[uri]


def _image_ids_of(
    images: list[dict[str, Any]], listed: Iterable[str], unmatched: set[str]
) -> tuple[Callable[[str, int], CocoId | None], list[str]]:
    """Ids by file name, and what is to be said of that.

    The whole of a name where a uri ends with it, else its last part where that is unique, else the one name that is
    spelled otherwise (``inputs/names/near.py``). The function raises UsageError for a second image of one id.
    """
    by_path = {image["file_name"].removeprefix("./"): image["id"] for image in images}
    by_name: dict[str, CocoId | None] = {}
    for image in images:
        name = PurePosixPath(image["file_name"]).name
        by_name[name] = None if name in by_name else image["id"]

    def exact(uri: str) -> CocoId | None:
        parts = uri.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((by_path[tail] for tail in tails if tail in by_path), by_name.get(parts[-1]))

    known = {uri.rpartition("/")[2] for uri in listed}
    others = [name for name in by_path if PurePosixPath(name).name not in known]
    pairs = near_pairs((uri for uri in listed if uri.rpartition("/")[2] not in by_name), others)
    near = {uri: by_path[name] for uri, name in pairs.items()}
    taken: dict[CocoId, str] = {}

    def find(uri: str, position: int) -> CocoId | None:
        image_id = near.get(uri) if uri in near else exact(uri)
        if image_id is None:
            unmatched.add(uri)
        elif taken.setdefault(image_id, uri) != uri:
            raise UsageError(f"its image {image_id} may be {taken[image_id]!r} or {uri!r}", field="--ground-truth")
        return image_id

    return find, [spelled_otherwise(pairs)] if pairs else []


def spelled_otherwise(pairs: Mapping[str, str]) -> str:
    """The note on images of a run, by uri, whose names a ground truth spells otherwise."""
    uri, name = next(iter(pairs.items()))
    return redact(f"{len(pairs):,} images are matched by names that are spelled otherwise, e.g. {name!r} for {uri!r}")


def _read_truth(uri: str) -> dict[str, Any]:
    try:
        tree = parse_json(open_store(uri).read(uri), "it")
    except (UsageError, ObjectError, StoreUnavailable) as error:
        raise UsageError.about(f"--ground-truth {uri}", error, hint="give a COCO JSON") from None
    for part in ("images", "categories", "annotations") if isinstance(tree, dict) else ():
        tree[part] = _as_written_elsewhere(tree.get(part))
    for part, fields in (
        ("images", {"id": (int, str), "file_name": (str,)}),
        ("categories", {"id": (int, str), "name": (str,)}),
    ):
        items = tree.get(part) if isinstance(tree, dict) else None
        if not isinstance(items, list) or not all(_has(item, fields) for item in items):
            raise UsageError(
                f"must be a COCO JSON: a list {part!r}, each with {' and '.join(fields)}",
                field=f"--ground-truth {uri}",
            )
    return tree


def _as_written_elsewhere(items: Any) -> Any:
    """The list that an object's values are, as LIVECell has it, with 1 where pandas has made 1.0 of it."""
    items = [*items.values()] if isinstance(items, dict) else items
    for item in items if isinstance(items, list) else ():
        for name in ("id", "category_id") if isinstance(item, dict) else ():
            if type(item.get(name)) is float:
                item[name] = whole(item[name])
    return items


def _has(item: Any, fields: Mapping[str, tuple[type, ...]]) -> bool:
    return isinstance(item, dict) and all(type(item.get(name)) in kinds for name, kinds in fields.items())
