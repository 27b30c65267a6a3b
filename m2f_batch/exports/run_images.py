"""Gives the labeled images of a run to the writers of formats, with the ids of its export."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from m2f_batch.config.segment import Task
from m2f_batch.datasets.annotated import AnnotatedImage, AnnotatedSegment
from m2f_batch.datasets.dataset import Category
from m2f_batch.exports.ids import CocoIds
from m2f_batch.records import Row
from m2f_batch.runs.reader import Run
from m2f_batch.storage import uris

_COLUMNS = ["uri", "height", "width", "status"]


@dataclass(frozen=True)
class RunImages:
    """The labeled images of a run, as AnnotatedImages. Their rows are read a file at a time.

    Images that failed have no size, so they are left out. ``ids`` collects what is left out, and counts the segments.
    Segments without a pixel, which some models give, are left out unless ``keeps_empty``.
    """

    run: Run
    ids: CocoIds
    keeps_empty: bool = False

    @property
    def task(self) -> Task | None:
        """The task of the run."""
        return self.run.info.task

    @property
    def about(self) -> Mapping[str, Any]:
        """The ``info`` of a COCO JSON."""
        info = self.run.info
        return {
            "description": f"m2f_batch {info.task} segmentation",
            "run_id": info.run_id,
            "model": info.model.uri,
            "model_license": info.model.license,
            "date_created": info.started_at,
        }

    @property
    def entries(self) -> Sequence[Mapping[str, Any]]:
        """The categories of the ground truth as they stand there, else those of the model."""
        return self.ids.categories

    @cached_property
    def categories(self) -> Sequence[Category]:
        """The categories with what the model says of them."""
        ids = self.ids.category_ids
        stuff = {ids[label.id] for label in self.run.info.categories if label.id in ids and not label.isthing}
        return [Category(entry["id"], entry["name"], entry["id"] not in stuff) for entry in self.entries]

    @cached_property
    def _places(self) -> Mapping[int, int]:
        """The index of the category of each label."""
        places = {entry["id"]: place for place, entry in enumerate(self.entries)}
        return {label: places[number] for label, number in self.ids.category_ids.items()}

    def images(self, *, with_segments: bool = True) -> Iterator[AnnotatedImage]:
        """The images by uri, without those that a ground truth does not hold."""
        info, position = self.run.info, 0
        if with_segments:
            self.ids.written.clear()
            self.ids.empty.clear()
        for table in self.run.rows([*_COLUMNS, *(["segments"] if with_segments else [])]):
            for row in table.to_pylist():
                if row["status"] != "ok":
                    continue
                position += 1
                image_id = self.ids.image_id(row["uri"], position)
                if image_id is not None:
                    name = file_name(row["uri"], info.input_uri, info.input_root)
                    segments = tuple(self._segments(row)) if with_segments else ()
                    yield AnnotatedImage(image_id, row["uri"], name, (row["height"], row["width"]), segments)

    def _segments(self, row: Row) -> Iterator[AnnotatedSegment]:
        for segment in row["segments"]:
            label = segment["category_id"]
            if not segment["area"] and not self.keeps_empty:
                self.ids.empty[label] += 1
            elif label in self._places:
                self.ids.written[self.ids.category_ids[label]] += 1
                yield AnnotatedSegment(
                    self._places[label], segment["counts"], segment["area"], segment["bbox"], score=segment["score"]
                )


def file_name(uri: str, source: str, root: str | None) -> str:
    """A uri relative to the folder that INPUT, the ``source``, names, or whole where it lies elsewhere.

    >>> file_name("/photos/2024/a.jpg", "/photos/*/a*.jpg", None)
    '2024/a.jpg'
    """
    folders = [uris.normalize(root)] if root else []
    if uris.has_glob(source):
        folders.append(uris.split_glob(source)[0])
    folders += [uris.normalize(source), uris.parent(source)]
    return next((uris.below(folder, uri) for folder in folders if uri.startswith(f"{folder.rstrip('/')}/")), uri)
