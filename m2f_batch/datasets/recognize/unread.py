"""Knows the formats that are not read: their words for people, and what to do with such a file."""

import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from m2f_batch.datasets import files
from m2f_batch.datasets.format import FileLook, FolderLook
from m2f_batch.errors import DecodeError
from m2f_batch.inputs.names.images import IMAGE_EXTENSIONS
from m2f_batch.storage import uris
from m2f_batch.storage.store import ObjectError

ARCHIVES = ("zip", "tar", "gz", "tgz", "7z", "rar", "bz2", "xz")
IMAGES = "a folder of images"
_BESIDE_IMAGES = IMAGE_EXTENSIONS | {"", "md", "txt"}  # extensions of files that say nothing of the images
_MASK_COLORS = 1024  # a mask has fewer, even where it shows objects in colors of their own
_AS_COCO = "export it there as COCO with masks"


class Unread(NamedTuple):
    """A format in words for people, what to do with it, and what keeps it from being read."""

    words: str
    advice: str
    why: str = ", which is not read"


def unread_labels(look: FolderLook) -> Unread | None:
    """Returns a folder of images whose label files lack the file that explains them."""
    texts = [path for path in look.paths("txt") if _stem(path) in look.image_stems]
    if texts and _are_lines(files.fetch(uris.join(look.place, texts[0]))):
        advice = "write one with 'names' and 'train', the folder of the images, and give it with --format yolo"
        return Unread("YOLO labels without their data.yaml", advice)
    return None


def unread_masks(look: FolderLook) -> Unread | None:
    """Returns a folder of masks whose annotations are XML."""
    is_voc = any(path.startswith("SegmentationClass/") for path in look.paths("png"))
    return Unread("Pascal VOC", _VOC_MASKS) if is_voc else None


def unread_images(look: FolderLook) -> Unread | None:
    """Returns a folder of images alone, of which no PNG is a mask by the few that are looked into."""
    pngs = look.paths("png")
    if not look.has_images or look.by_extension.keys() - _BESIDE_IMAGES or look.paths("tif", "tiff"):
        return None
    some = [*pngs[:2], *pngs[2:][-2:]]  # of two that lie side by side, one may be the other's mask
    looked = [_is_photograph(uris.join(look.place, path)) for path in some]
    if False in looked or (some and True not in looked):
        return None
    advice = "give the annotations, and this folder as data.train_images"
    return Unread(IMAGES, advice, " without annotations that are read")


def _is_photograph(uri: str) -> bool | None:
    """Tell whether a PNG has more colors than masks have, None where it cannot be read."""
    try:
        image, _ = files.open_mask(uri)
    except (DecodeError, ObjectError):
        return None
    return image.mode in ("RGB", "RGBA") and image.getcolors(_MASK_COLORS) is None


def unread_file(look: FileLook) -> Unread | None:
    """Returns a file of a format that is not read, by its name and its bytes."""
    extension = look.extension
    if extension in ("yaml", "yml"):
        return None
    if look.start.startswith((b"{", b"[")):
        return _of_json(look.document)
    if look.start.startswith(b"<"):
        return _of_xml(look.start)
    if extension in ("tfrecord", "record"):
        return Unread("TFRecord", "convert it to COCO first")
    if extension == "parquet":
        return Unread("Parquet, as of Hugging Face datasets", "write it as COCO or as mask PNGs first")
    if extension in ARCHIVES:
        return Unread("an archive", "unpack it, and give what is in it")
    if extension in ("csv", "tsv"):
        return _of_csv(look.start.partition(b"\n")[0].decode(errors="replace"))
    if extension in IMAGE_EXTENSIONS:
        return Unread("an image", "give the annotations, such as a COCO JSON", ", which holds no annotations")
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


def _of_json(document: Any) -> Unread | None:
    if isinstance(document, list):
        return _with_keys(_UNREAD_LISTS, document[0]) if document and isinstance(document[0], dict) else None
    if not isinstance(document, dict):
        return None
    if document.get("type") in ("FeatureCollection", "Feature"):
        return Unread("GeoJSON", "draw its outlines in pixels first, as COCO or mask PNGs")
    values = [value for value in document.values() if isinstance(value, dict)]
    if values and {"filename", "regions"} <= values[0].keys():
        return Unread("a JSON of the VGG Image Annotator", _AS_COCO)
    return _with_keys(_UNREAD_OBJECTS, document)


def _with_keys(kinds: Iterable[tuple[frozenset[str], str, str]], document: dict[str, Any]) -> Unread | None:
    return next((Unread(words, advice) for keys, words, advice in kinds if keys <= document.keys()), None)


def _of_xml(start: bytes) -> Unread | None:
    root = re.search(rb"<([A-Za-z_]+)", start)
    if root and root[1] == b"annotations":
        return Unread("a CVAT XML", "export it there as COCO 1.0, or as 'Segmentation mask'")
    if root and root[1] == b"annotation" and b"<polygon>" in start:
        return Unread("an XML of the old LabelMe", "convert it to COCO first")
    if root and root[1] == b"annotation":
        return Unread("Pascal VOC XML of boxes", _VOC_MASKS)
    return None


def _of_csv(head: str) -> Unread:
    columns = {column.strip().strip('"').casefold() for column in re.split(r"[,;\t]", head)}
    if {"imageid", "encodedpixels"} <= columns or {"id", "annotation"} <= columns:
        return Unread("a CSV of Kaggle's run lengths", "write its masks as COCO or as PNGs first")
    if {"imageid", "labelname"} <= columns:
        return Unread("a CSV of Open Images", "write its masks as COCO or as PNGs first")
    if "region_shape_attributes" in columns:
        return Unread("a CSV of the VGG Image Annotator", _AS_COCO)
    return Unread("a CSV", "write it as COCO first")


def _are_lines(data: bytes) -> bool:
    """Says whether the first line is one of YOLO's labels."""
    words: Sequence[bytes] = data.strip().partition(b"\n")[0].split()
    return len(words) >= 5 and all(re.fullmatch(rb"-?\d+(\.\d+)?(e-?\d+)?", word) for word in words)


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]
