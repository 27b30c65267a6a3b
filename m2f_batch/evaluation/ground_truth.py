"""The ground truth that a run is measured against: which format it is in, and which labels are its categories."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from m2f_batch.config.data import ClassNames, Palette
from m2f_batch.config.formats import read_formats
from m2f_batch.datasets import files
from m2f_batch.datasets.dataset import Dataset
from m2f_batch.datasets.format import formats
from m2f_batch.datasets.png.class_values import are_unnamed
from m2f_batch.datasets.reading import option_names, read_dataset
from m2f_batch.datasets.recognize.annotations import look_at, look_into
from m2f_batch.errors import UsageError
from m2f_batch.exports.categories import match_categories
from m2f_batch.inputs.listing import IMAGE_EXTENSIONS
from m2f_batch.inputs.names.images import extension_of
from m2f_batch.models.label_sets import Category as Label
from m2f_batch.storage import uris
from m2f_batch.storage.json_text import parse_json

_TIFF = {"tif", "tiff"}  # masks, too, where no PNG is


@dataclass(frozen=True)
class GroundTruth:
    """The place of the ground truth and how to read it: the options of ``m2f-batch evaluate``."""

    uri: str
    form: str | None = None
    images: str | None = None
    masks: str | None = None
    ignore_index: int | None = None
    do_reduce_labels: bool = False
    crowd_as_object: bool = False
    names: ClassNames | None = None
    mask_suffix: str | None = None
    palette: Palette | None = None
    max_pixels: int | None = None
    part: str = "val"

    @cached_property
    def place(self) -> str:
        """The one spelling of ``uri``."""
        return uris.normalize(self.uri)

    def folder(self) -> str:
        """The folder that the paths of its images begin in, where that can be told: else one that holds the truth."""
        if self.images:
            return uris.normalize(self.images)
        return self.place if files.is_folder(self.place, "--ground-truth") else uris.parent(self.place)

    def read(self, input_uri: str) -> tuple[str, Dataset]:
        """Its format and the dataset. ``input_uri`` is the run's INPUT. Raises UsageError."""
        try:
            form = self.form or form_of(self.uri, self.masks)
            dataset = read_dataset(
                form,
                self.uri,
                self.images or self._images_of(form, input_uri),
                self.masks,
                ignore_index=self.ignore_index,
                do_reduce_labels=self.do_reduce_labels,
                crowd_as_object=self.crowd_as_object,
                names=self.names,
                mask_suffix=self.mask_suffix,
                palette=self.palette,
                max_pixels=self.max_pixels,
                split=self.part,
            )
        except UsageError as error:
            raise error.in_words(option_names("--ground-truth", "--format")) from error
        if not dataset.table.num_rows:
            raise UsageError("has no image", field="--ground-truth", value=self.uri)
        return form, dataset

    def _images_of(self, form: str, input_uri: str) -> str | None:
        """Masks without their images beside them are of INPUT."""
        known = formats().get(form)
        if known is None or known.size_from != "mask" or not files.is_folder(input_uri, "input.uri"):
            return None
        folder = uris.normalize(self.masks) if self.masks else self.place
        listed = {extension_of(uri) for uri in files.list_all(folder, IMAGE_EXTENSIONS)}
        return None if listed - ({"png"} if "png" in listed else _TIFF) else input_uri


def form_of(uri: str, masks: str | None = None) -> str:
    """The format of a file or folder, by what is in it. Raises UsageError where nothing tells."""
    place = uris.normalize(uri)
    found = look_at(uri)
    if found is None or (found.form is None and masks is not None):
        is_folder = files.is_folder(place, "--ground-truth")
        folder = look_into(place) if is_folder else None
        meant = [name for name, known in formats().items() if known.is_meant and known.is_meant(place, folder, masks)]
        if meant:
            return meant[0]
        if found is None:
            raise _unknown(uri, place, is_folder=is_folder)
    if found.form is None:
        raise UsageError(found.refusal, field="--ground-truth", value=uri)
    if found.place != place:
        raise UsageError(f"looks like {found.words}: give its file {found.place!r}", field="--ground-truth", value=uri)
    return found.form


def _unknown(uri: str, place: str, *, is_folder: bool) -> UsageError:
    """The mistake of a ground truth that nothing tells. Raises UsageError where it cannot be read or is broken JSON."""
    if is_folder:
        hint = "give a file, or --format"
        return UsageError("has no labelme JSON and no PNG", field="--ground-truth", value=uri, hint=hint)
    data = files.read_bytes(place, "--ground-truth")
    if extension_of(place) == "json":
        parse_json(data, repr(uri), field="--ground-truth")
    hint = "name it with --format"
    known = ", ".join(read_formats())
    return UsageError("is in no format that is known", field="--ground-truth", value=uri, allowed=known, hint=hint)


def category_places(
    labels: Sequence[Label], dataset: Dataset, ground_truth: str
) -> tuple[Mapping[int, int], tuple[str, ...]]:
    """Map label ids of a model to indices into the dataset's categories, with notes for the user.

    They are matched by name, as exports do. Classes of PNGs that nobody has named are the label ids themselves.
    """
    categories = dataset.categories
    places = {category.id: place for place, category in enumerate(categories)}
    if are_unnamed(categories):
        return {label.id: places[label.id] for label in labels if label.id in places}, ()
    named = [(category.id, category.name) for category in categories]
    annotated = {categories[segment["category"]].id for row in dataset.rows() for segment in row["segments"]}
    match = match_categories(labels, named, ground_truth, annotated)
    return {label: places[number] for label, number in match.ids.items()}, match.notes
