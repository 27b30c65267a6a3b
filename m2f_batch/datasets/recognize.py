"""Which format a file or folder of annotations is in, by what is in it: those that are read, and others by name.

For messages, and for commands that are not told the format. Nothing here is checked: a file may look like COCO and have
no image.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, cast, get_args

from m2f_batch.config.data import DataFormat
from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.findings import NOTES, Finding, Report, stop
from m2f_batch.errors import RunError, UsageError
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.inputs.names.hidden import is_hidden
from m2f_batch.storage import uris
from m2f_batch.storage.places import open_store

_AS_COCO = "export it there as COCO with masks"
_MASKS = ("semantic-png", "instance-png")
_PARSED = 64 << 20  # bytes of a JSON that is parsed for its look; of a larger one words are looked for
_ARCHIVES = ("zip", "tar", "gz", "tgz", "7z", "rar", "bz2", "xz")


_Arguments = ParamSpec("_Arguments")


class Known(NamedTuple):
    """What ``place`` looks like. ``form`` is its ``data.format``, None where it is not read; ``advice``: what to do."""

    words: str
    form: str | None
    place: str
    advice: str = ""


def look_at(annotations: str) -> Known | None:
    """The format of a file or folder; None where nothing tells, or it cannot be read."""
    try:
        place = uris.normalise(annotations)
        is_folder = open_store(place).is_folder(place)
        return _of_folder(place) if is_folder else _of_file(place, files.fetch(place))
    except (UsageError, RunError):
        return None


def misnamed(form: str, annotations: str) -> str | None:
    """What is said where annotations that are to be read as ``form`` look like something else, else None."""
    found = look_at(annotations)
    if found is None:
        return None
    is_same = found.form == form or (found.form in _MASKS and form in _MASKS)
    if is_same and found.place == uris.normalise(annotations):
        return None
    if found.form is None:
        return f"data.train: {annotations!r} looks like {found.words}, which is not read: {found.advice}"
    wanted = [] if is_same else [f"--format {found.form} (data.format={found.form})"]
    wanted += [f"give its file {found.place!r}"] if found.place != uris.normalise(annotations) else []
    return f"data.train: {annotations!r} looks like {found.words}: {', '.join(wanted)}"


def naming_formats(read: Callable[_Arguments, Dataset]) -> Callable[_Arguments, Dataset]:
    """A reader (form, annotations, ..., report=...) that says so where ``annotations`` are of another format.

    They are looked at once something is wrong with them, before it is reported: the faults of a good file by another
    format's rules tell nobody anything. Raises UsageError then, too.
    """

    @wraps(read)
    def reading(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> Dataset:
        form, annotations = map(str, arguments[:2])
        report = cast("Report", options.get("report", stop))
        looked: list[bool] = []

        def look() -> None:
            if not looked:
                looked.append(True)
                said = misnamed(form, annotations)
                if said:
                    raise UsageError(said)

        def watch(finding: Finding) -> None:
            if finding.kind not in NOTES:
                look()
            report(finding)

        if form not in get_args(DataFormat):
            return read(*arguments, **options)  # says which are
        if form == "yolo" and _extension(annotations) not in ("yaml", "yml"):
            look()  # a large JSON is YAML, too, and takes minutes as such
        options["report"] = watch
        try:
            return read(*arguments, **options)
        except UsageError:
            look()
            raise

    return reading


def _of_folder(place: str) -> Known | None:
    listed = sorted(uris.below(place, entry.uri) for entry in open_store(place).list(place))
    by_kind: dict[str, list[str]] = {}
    for path in listed:
        if not is_hidden(path):
            by_kind.setdefault(_extension(path), []).append(path)
    if "run.json" in listed and any(path.startswith("annotations/") for path in by_kind.get("parquet", ())):
        return Known("a run of m2f-batch", None, place, "export it first: m2f-batch export RUN file.json --format coco")
    for path in sorted([*by_kind.get("yaml", ()), *by_kind.get("yml", ())], key=lambda path: path.count("/")):
        found = _known_at(place, path)
        if found is not None:
            return found
    return _of_labels(place, by_kind) or _of_masks(place, by_kind)


def _of_labels(place: str, by_kind: dict[str, list[str]]) -> Known | None:
    """By the label files of a folder: JSON, XML, the lines of YOLO."""
    jsons = by_kind.get("json", [])
    several = [known for path in sorted(jsons, key=_looks_unannotated)[:5] if (known := _known_at(place, path))]
    found = next(iter(several), None)
    if found is not None:
        is_one_each = found.form == "labelme" or (found.form is None and len(jsons) > 1)
        return found._replace(place=place) if is_one_each else found
    if by_kind.get("xml"):
        found = _known_at(place, by_kind["xml"][0])
        if found is not None:
            return found._replace(place=place)
    images = {
        posixpath.splitext(posixpath.basename(path))[0] for kind in IMAGE_EXTENSIONS for path in by_kind.get(kind, ())
    }
    texts = [path for path in by_kind.get("txt", ()) if posixpath.splitext(posixpath.basename(path))[0] in images]
    if texts and _are_lines(files.fetch(uris.join(place, texts[0]))):
        advice = "write one with 'names' and 'train', the folder of the images, and give it with --format yolo"
        return Known("YOLO labels without their data.yaml", None, place, advice)
    return None


def _looks_unannotated(path: str) -> tuple[bool, bool]:
    """Sorts files of objects first, those of images without annotations last, by what COCO's own tree calls them."""
    name = posixpath.basename(path)
    return name.startswith("image_info"), not name.startswith("instances")


def _of_masks(place: str, by_kind: dict[str, list[str]]) -> Known | None:
    if any(path.startswith("SegmentationClass/") for path in by_kind.get("png", ())):
        return Known("Pascal VOC", None, place, _VOC_MASKS)
    if by_kind.get("png"):
        return Known("a folder of mask PNGs", "semantic-png", place)
    others = [kind for kind in ("tfrecord", "record", "parquet", "csv", *_ARCHIVES) if by_kind.get(kind)]
    if others and not any(by_kind.get(kind) for kind in IMAGE_EXTENSIONS):
        return _of_file(uris.join(place, by_kind[others[0]][0]), b"")
    return None


def _known_at(place: str, path: str) -> Known | None:
    uri = uris.join(place, path)
    return _of_file(uri, files.fetch(uri))


def _of_file(place: str, data: bytes) -> Known | None:
    extension, start = _extension(place), data[:65536].lstrip(b"\xef\xbb\xbf \t\r\n")
    if extension in ("yaml", "yml"):
        is_data = posixpath.basename(place) == "data.yaml" or re.search(rb"(?m)^(train|val|test|path)\s*:", data)
        return Known("a YOLO dataset", "yolo", place) if is_data and re.search(rb"(?m)^names\s*:", data) else None
    if start.startswith((b"{", b"[")):
        return _of_json(place, data)
    if start.startswith(b"<"):
        return _of_xml(place, start)
    if extension in ("tfrecord", "record"):
        return Known("TFRecord", None, place, "convert it to COCO first")
    if extension == "parquet":
        return Known("Parquet, as of Hugging Face datasets", None, place, "write it as COCO or as mask PNGs first")
    if extension in _ARCHIVES:
        return Known("an archive", None, place, "unpack it, and give what is in it")
    if extension in ("csv", "tsv"):
        return _of_csv(place, start.partition(b"\n")[0].decode(errors="replace"))
    return None


_VOC_MASKS = (
    "its masks are read: SegmentationClass with --format semantic-png --ignore-index 255, and JPEGImages as --images"
)
_UNREAD_OBJECTS: tuple[tuple[frozenset[str], str, str], ...] = (
    (frozenset({"run_id", "fingerprint"}), "the run.json of a run of m2f-batch", "export it first: --format coco"),
    (frozenset({"_via_img_metadata"}), "a project of the VGG Image Annotator", _AS_COCO),
    (
        frozenset({"imgHeight", "imgWidth", "objects"}),
        "polygons of Cityscapes",
        "give its masks, *_labelIds.png: --format semantic-png",
    ),
    (frozenset({"item", "annotations"}), "a Darwin JSON of V7", _AS_COCO),
    (frozenset({"size", "objects", "tags"}), "a Supervisely JSON", _AS_COCO),
    (frozenset({"data_row"}), "an export of Labelbox", "convert it to COCO first"),
    (frozenset({"image", "annotations"}), "a JSON of Segment Anything", _AS_COCO),
    (frozenset({"dm_format_version", "items"}), "datumaro's own JSON", "export it there as COCO"),
    (frozenset({"info", "objects"}), "a JSON of ISAT", _AS_COCO),
    (frozenset({"asset", "regions"}), "a VoTT JSON", "export it there as COCO, or convert it to COCO first"),
)
_UNREAD_LISTS: tuple[tuple[frozenset[str], str, str], ...] = (
    (
        frozenset({"image_id", "category_id", "score"}),
        "a list of COCO results, which are predictions",
        "give the COCO JSON with 'images', 'annotations' and 'categories'",
    ),
    (frozenset({"data", "annotations"}), "a JSON of Label Studio", _AS_COCO),
    (frozenset({"data", "predictions"}), "a JSON of Label Studio", _AS_COCO),
    (frozenset({"data", "completions"}), "a JSON of Label Studio", _AS_COCO),
    (frozenset({"annotation_id", "annotator"}), "a JSON-MIN of Label Studio", _AS_COCO),
    (frozenset({"image", "annotations"}), "a CreateML JSON of boxes", "export COCO with masks"),
    (frozenset({"file_name", "annotations"}), "a list of detectron2's dicts", "write it as COCO first"),
    (frozenset({"filename", "ann"}), "mmdetection's own list of annotations", "write it as COCO first"),
    (frozenset({"name", "labels"}), "a Scalabel or BDD100K JSON", "convert it to COCO first"),
    (frozenset({"data_row"}), "an export of Labelbox", "convert it to COCO first"),
)


def _of_json(place: str, data: bytes) -> Known | None:
    document = _parsed(data)
    if isinstance(document, list):
        return _unread(_UNREAD_LISTS, document[0], place) if document and isinstance(document[0], dict) else None
    if not isinstance(document, dict):
        return None
    if {"imagePath", "shapes"} <= document.keys():
        return Known("labelme", "labelme", place)
    if "images" in document:
        entries = document.get("annotations")
        entries = [*entries.values()] if isinstance(entries, dict) else entries
        first = entries[0] if isinstance(entries, list) and entries else None
        is_panoptic = isinstance(first, dict) and "segments_info" in first
        return Known("COCO panoptic", "coco-panoptic", place) if is_panoptic else Known("COCO", "coco", place)
    if document.get("type") in ("FeatureCollection", "Feature"):
        return Known("GeoJSON", None, place, "draw its outlines in pixels first, as COCO or mask PNGs")
    values = [value for value in document.values() if isinstance(value, dict)]
    if values and {"filename", "regions"} <= values[0].keys():
        return Known("a JSON of the VGG Image Annotator", None, place, _AS_COCO)
    return _unread(_UNREAD_OBJECTS, document, place)


def _unread(kinds: Iterable[tuple[frozenset[str], str, str]], document: dict[str, Any], place: str) -> Known | None:
    return next((Known(words, None, place, advice) for keys, words, advice in kinds if keys <= document.keys()), None)


def _parsed(data: bytes) -> Any:
    """The document, of a large one what its words tell; of JSON lines the first, in a list; None where it is none."""
    if len(data) > _PARSED:
        panoptic = b'"segments_info"' in data
        return (
            {"images": [], "annotations": [{"segments_info": []} if panoptic else {}]} if b'"images"' in data else None
        )
    text = data.decode("utf-8-sig", errors="replace")
    for attempt, wrap in ((text, False), (text.lstrip().partition("\n")[0], True)):
        try:
            found = json.loads(attempt)
            return [found] if wrap else found
        except (ValueError, RecursionError):
            continue
    return None


def _of_xml(place: str, start: bytes) -> Known | None:
    root = re.search(rb"<([A-Za-z_]+)", start)
    if root and root[1] == b"annotations":
        return Known("a CVAT XML", None, place, "export it there as COCO 1.0, or as 'Segmentation mask'")
    if root and root[1] == b"annotation" and b"<polygon>" in start:
        return Known("an XML of the old LabelMe", None, place, "convert it to COCO first")
    if root and root[1] == b"annotation":
        return Known("Pascal VOC XML of boxes", None, place, _VOC_MASKS)
    return None


def _of_csv(place: str, head: str) -> Known:
    columns = {column.strip().strip('"').casefold() for column in re.split(r"[,;\t]", head)}
    if {"imageid", "encodedpixels"} <= columns or {"id", "annotation"} <= columns:
        return Known("a CSV of Kaggle's run lengths", None, place, "write its masks as COCO or as PNGs first")
    if {"imageid", "labelname"} <= columns:
        return Known("a CSV of Open Images", None, place, "write its masks as COCO or as PNGs first")
    if "region_shape_attributes" in columns:
        return Known("a CSV of the VGG Image Annotator", None, place, _AS_COCO)
    return Known("a CSV", None, place, "write it as COCO first")


def _are_lines(data: bytes) -> bool:
    """Whether the first line is one of YOLO's labels."""
    words: Sequence[bytes] = data.strip().partition(b"\n")[0].split()
    return len(words) >= 5 and all(re.fullmatch(rb"-?\d+(\.\d+)?(e-?\d+)?", word) for word in words)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _extension(path: str) -> str:
    return posixpath.splitext(path)[1].removeprefix(".").lower()
