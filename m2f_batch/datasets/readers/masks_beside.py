"""Folders of mask PNGs beside images: which mask is whose, for the formats that have no file saying so."""

from m2f_batch.datasets import files
from m2f_batch.datasets.findings import Finding, Report, examples
from m2f_batch.errors import UsageError
from m2f_batch.storage import uris
from m2f_batch.storage.listing import IMAGE_EXTENSIONS


def pairs(
    annotations: str, images: str | None, masks: str | None, report: Report
) -> tuple[str | None, list[tuple[str, str]]]:
    """The file that ``annotations`` is, if any, and (image, mask) uris by image, matched by path without extension.

    ``annotations`` is a file beside ``masks``, or itself the folder of the masks. Without ``images``, they lie among
    the masks, as anything but PNG. A mask without an image is a finding, images without a mask are left out aloud.
    """
    place = uris.normalise(annotations)
    is_folder = files.is_folder(place, "data.train")
    if masks is None and not is_folder:
        raise UsageError(f"data.train_masks: {annotations!r} is no folder of masks; give that folder")
    folder = files.folder_of(masks or place, "data.train_masks")
    found = files.list_files(folder, ["png"], report)
    if not found:
        raise UsageError(f"data.train_masks: {folder!r} has no PNG")
    if images is None:
        pictures = files.list_files(folder, IMAGE_EXTENSIONS - {"png"}, report)
    else:
        pictures = files.list_images(files.folder_of(images, "data.train_images"), report)
    for stem in sorted(found.keys() - pictures.keys()):
        text = "has no image of its name; data.train_images names the folder of the images"
        report(Finding("missing-image", found[stem], text))
    alone = sorted(pictures.keys() - found.keys())
    if alone:
        text = f"{len(alone):,} of {len(pictures):,} images have no mask and are left out ({examples(alone)})"
        report(Finding("unlabelled-image", folder, text))
    matched = [(pictures[stem], found[stem]) for stem in pictures if stem in found]
    return None if is_folder else place, sorted(matched)
