"""Reads the images and the categories of a COCO JSON of either kind, and its values as programs spell them.

pandas makes 1.0 of 1 and NaN of what is missing, databases make texts of ids, LIVECell has an object for a list, and
LVIS has ``coco_url`` for ``file_name``. What can mean one thing only is read as that.
"""

from dataclasses import dataclass, replace
from typing import Any

from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Category
from m2f_batch.datasets.findings import Finding, Report, examples
from m2f_batch.datasets.masks import is_size
from m2f_batch.datasets.pixel_cap import size_of
from m2f_batch.errors import DecodeError, UsageError
from m2f_batch.inputs.coco_input import whole as whole  # also imported from here
from m2f_batch.inputs.names.resolved import images_around
from m2f_batch.storage import allow, uris
from m2f_batch.storage.store import ObjectError

Size = tuple[int, int]
Entry = dict[str, Any]
_PARTS = ("images", "annotations", "categories")


def flag(value: Any) -> bool | None:
    """Reads ``iscrowd`` and its like, and gives None for what they never are. Missing, null and NaN are no.

    >>> [flag(value) for value in (1, 0.0, "1", False, "False", None, float("nan"), 2, "yes")]
    [True, False, True, False, False, False, False, None, None]
    """
    if value is None or isinstance(value, bool) or value != value:
        return value is True
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return {0: False, 1: True}.get(whole(value))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Heads:
    """The images and categories of a COCO JSON.

    ``images`` are by id, in the order of the file. ``numbers`` are their ids by those of the file, if these are texts.

    Of an image, ``file_name`` is a text, and ``height`` and ``width`` are pixels or both None. ``refused``: ids of
    entries that are no image, which is reported.
    """

    images: dict[int, Entry]
    categories: tuple[Category, ...]
    numbers: dict[str, int] | None
    category_numbers: dict[str, int] | None
    refused: frozenset[int]

    def image_id(self, value: Any) -> int | None:
        """Gives the id of an image, as an annotation has it, or None where there is no such image."""
        number = _number(value, self.numbers)
        return number if number in self.images else None

    def is_refused(self, value: Any) -> bool:
        """Says whether the image of an annotation is one that is reported itself."""
        return _number(value, self.numbers) in self.refused

    def category_id(self, value: Any) -> int | None:
        """Returns the id of a category, as an annotation has it, whether there is such a category or not."""
        return _number(value, self.category_numbers)

    def of_entry(self, finding: Finding, entry: Any) -> Finding:
        """Returns a finding of an annotation as one of its image, where it has one."""
        return replace(finding, image=self.image_id(entry.get("image_id")) if isinstance(entry, dict) else None)

    def positions(self) -> dict[int, int]:
        """Returns places of the categories by their ids."""
        return {category.id: position for position, category in enumerate(self.categories)}


def _number(value: Any, numbers: dict[str, int] | None) -> int | None:
    return whole(value) if numbers is None else numbers.get(str(value))


def parts_of(document: Any, place: str) -> tuple[list[Any], list[Any], list[Any]]:
    """Gives lists ``images``, ``annotations``, ``categories``, of objects too (``entries_of``). Raises UsageError."""
    found = []
    if isinstance(document, list) and len(document) == 1:
        (document,) = document
    for part in _PARTS:
        items = document.get(part) if isinstance(document, dict) else None
        if not isinstance(items, list | dict):
            raise UsageError(f"is no COCO JSON: it has no list {part!r}", field="data.train", value=place)
        found.append(items if isinstance(items, list) else entries_of(items))
    images, annotations, categories = found
    return images, annotations, categories


def entries_of(items: Entry) -> list[Any]:
    """Returns the entries of a list that is an object: its values, or the rows of a table as pandas writes one.

    Keys are ids, where entries have none of their own. A text is the name of the entry.

    >>> entries_of({"7": {"name": "a"}}), entries_of({"1": "ball"})
    ([{'id': '7', 'name': 'a'}], [{'id': '1', 'name': 'ball'}])
    >>> entries_of({"id": {"0": 5, "1": 6}, "name": {"0": "a", "1": "b"}})
    [{'id': 5, 'name': 'a'}, {'id': 6, 'name': 'b'}]
    >>> entries_of({"columns": ["id"], "index": [0], "data": [[5]]})
    [{'id': 5}]
    """
    columns, data, ids = items.get("columns"), items.get("data"), items.get("id")
    if isinstance(columns, list) and isinstance(data, list):
        return [dict(zip(columns, row, strict=False)) if isinstance(row, list) else row for row in data]
    if isinstance(ids, dict) and all(isinstance(column, dict) for column in items.values()):
        return [{name: column.get(row) for name, column in items.items()} for row in ids]
    entries: list[Any] = []
    for key, item in items.items():
        entry = {"name": item} if isinstance(item, str) else item
        entries.append({"id": key} | entry if isinstance(entry, dict) else entry)
    return entries


def read_heads(images: list[Any], categories: list[Any], place: str, report: Report) -> Heads:
    """Reads images and categories of a COCO JSON of either kind. What is wrong with them goes to ``report``."""
    numbers = _numbers(images, "images", place, report)
    listed: dict[int, Entry] = {}
    refused: set[int | None] = set()
    for at, image in enumerate(images):
        taken = _image(image, f"{place}: images[{at}]", listed, numbers)
        if isinstance(taken, Finding):
            report(taken)
            refused.add(_number(image.get("id"), numbers) if isinstance(image, dict) else None)
        else:
            listed[taken["id"]] = taken
    urls = [image for image in listed.values() if image["is_url"]]
    if urls:
        text = f"{len(urls):,} of {len(images):,} images have no 'file_name': their 'coco_url' gives it, as of LVIS"
        report(Finding("other-name", place, f"{text} ({urls[0]['file_name']})"))
    known: dict[int, Category] = {}
    category_numbers = _numbers(categories, "categories", place, report)
    for at, category in enumerate(categories):
        found = _category(category, f"{place}: categories[{at}]", known, category_numbers)
        if isinstance(found, Finding):
            report(found)
        else:
            known[found.id] = found
    gone = frozenset(number for number in refused - listed.keys() if number is not None)
    return Heads(listed, (*known.values(),), numbers, category_numbers, gone)


def _numbers(entries: list[Any], what: str, place: str, report: Report) -> dict[str, int] | None:
    """Numbers ids that are texts 1, 2, 3, ... and gives None where all are numbers."""
    ids = [entry.get("id") for entry in entries if isinstance(entry, dict) and entry.get("id") is not None]
    texts = [str(value) for value in ids if files.is_text(value)]
    if not texts or len({whole(value) for value in texts} - {None}) == len({*texts}):
        return None
    report(Finding("text-id", place, f"ids of {what} are texts ({examples(texts)}): they are numbered 1, 2, 3, ..."))
    return {text: number for number, text in enumerate(dict.fromkeys(str(value) for value in ids), 1)}


def _image(image: Any, where: str, listed: dict[int, Entry], numbers: dict[str, int] | None) -> Entry | Finding:
    """Gives the used values of an image, or what is wrong with it."""
    if not isinstance(image, dict):
        return Finding("malformed", where, "needs an integer 'id'")
    number = _number(image.get("id"), numbers)
    if number is None or not -(2**63) <= number < 2**63:
        return Finding("malformed", where, "needs an integer 'id'")
    name = image.get("file_name")
    is_url = not files.is_text(name) and files.is_text(image.get("coco_url"))
    if is_url:
        url = image["coco_url"]  # read where a list allows it, else train2017/000000000009.jpg, as LVIS has it
        name = url if allow.is_on_web(url) else "/".join(url.split("/")[-2:])
    if not files.is_text(name):
        return Finding("malformed", where, "needs a text 'file_name' (or 'coco_url', as LVIS has it)")
    height, width = (_pixels(image.get(name)) for name in ("height", "width"))
    if (height or width) and not is_size(height, width):
        return Finding("malformed", where, "needs 'height' and 'width' in pixels")
    if number in listed:
        other = listed[number]["file_name"]
        return Finding("duplicate-image", where, f"the id {number} is also that of {other!r}", number)
    return {
        "id": number,
        "file_name": name,
        "is_url": is_url,
        "height": height or None,
        "width": width or None,
        "ignored": image.get("ignored"),
    }


def _pixels(value: Any) -> Any:
    """Gives pixels, 0 for a missing value or -1, and the value itself where it is no number of pixels."""
    if value is None or value != value:
        return 0
    number = whole(value)
    return value if number is None else 0 if number == -1 else number


def _category(
    category: Any, where: str, known: dict[int, Category], numbers: dict[str, int] | None
) -> Category | Finding:
    number = _number(category.get("id"), numbers) if isinstance(category, dict) else None
    if number is None or not 0 <= number < 2**31:
        return Finding("malformed", where, "needs an integer 'id' of 0 or more")
    name = category.get("name")
    name = str(name) if type(name) in (int, float) else name  # classes that are called by numbers
    if not files.is_text(name):
        return Finding("malformed", where, "needs a text 'name'")
    if number in known:
        return Finding("duplicate-category", where, f"the id {number} is that of {known[number].name!r}")
    return Category(number, name.strip(), flag(category.get("isthing", 1)) is not False)


def unknown_category(category: Any, where: str, known: dict[int, int]) -> Finding:
    """Reports a class that the file does not declare. ``known`` has the ids that it does."""
    span = f"{min(known)} to {max(known)}" if known else "none"
    text = f"category_id {category!r} is none of the {len(known)} categories (ids {span}); are its ids off by one?"
    return Finding("unknown-category", where, text)


def image_uris(heads: Heads, images: str | None, place: str, report: Report, but: str | None = None) -> dict[int, str]:
    """Finds the uri of each image by id, none of them below ``but``. Images that cannot be used are left out.

    File names are resolved against ``images``, else the JSON's folder, and looked for around it. An image without
    height and width gets those of its file.
    """
    ids, names = [*heads.images], [image["file_name"] for image in heads.images.values()]
    folder = files.folder_of(images, "data.train_images") if images else uris.parent(place)
    found = files.find_named(
        names,
        folder if images else images_around(folder),
        report,
        lambda at: f"{place}: image {ids[at]}",
        bases=[folder] * len(names),
        takes_urls=images is not None,
        but=but,
    )
    named = {number: uri for number, uri in zip(ids, found, strict=True) if uri is not None}
    without = [number for number in named if heads.images[number]["height"] is None]
    found_sizes = files.rows_of(lambda number: _size(number, named, place), without, report, named.get)
    sizes = {row["id"]: row["size_hw"] for row in found_sizes}
    for number in without:
        if number in sizes:
            heads.images[number]["height"], heads.images[number]["width"] = sizes[number]
        else:
            del named[number]
    if sizes:
        text = f"{len(sizes):,} of {len(ids):,} images have no height and width: those of their files are taken"
        report(Finding("size-of-file", place, text))
    return named


def _size(number: int, named: dict[int, str], place: str) -> files.Read:
    try:
        return {"id": number, "size_hw": size_of(files.fetch(named[number]))}, []
    except (DecodeError, ObjectError) as error:
        text = f"has no 'height' and 'width', and its file does not tell them: {error}"
        return None, [Finding("missing-image", f"{place}: image {number}", text)]


def meant_categories(
    categories: tuple[Category, ...], used: set[int], place: str, report: Report
) -> tuple[list[Category], list[int]]:
    """Categories without those whose name an annotated one has, and the new place of each, -1 for none.

    Roboflow exports the name of a project as a category of its own, which may be that of a class. ``used`` are places
    of categories that have annotations.
    """
    names = [" ".join(category.name.split()).casefold() for category in categories]
    spare = [
        at
        for at, name in enumerate(names)
        if at not in used and sum(other in used for other in range(len(names)) if names[other] == name) == 1
    ]
    for at in spare[:1]:
        said = ", ".join(f"{categories[at].id} ({categories[at].name!r})" for at in spare)
        text = f"categories without an annotation, whose name an annotated one has, are left out: {said}"
        report(Finding("spare-category", place, text))
    kept = [at for at in range(len(categories)) if at not in spare]
    places = {at: position for position, at in enumerate(kept)}
    return [categories[at] for at in kept], [places.get(at, -1) for at in range(len(categories))]
