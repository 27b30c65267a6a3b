"""Reads lines of YOLO's label files: outlines, and how to know those of its other tasks, which are written alike.

detection            class, center x, center y, width, height
oriented boxes       class and four corners: outlines, as far as the numbers tell
key points           class, box as for detection, then x, y of each key point, with 0, 1 or 2 for its visibility
"""

from typing import NamedTuple

from m2f_batch.datasets.findings import Finding

_OUTSIDE = 0.01  # of the image: more is no rounding, but pixels, or another image
_BESIDE = 0.1  # of the box's sides: key points may lie so far out of it
_FILLED = 0.65  # of the box's sides: key points spread so far
_ROUNDED = 2e-3  # of the image: two numbers of one place
_CORNERS = 8  # numbers of four points


class Line(NamedTuple):
    """A line that may be an outline: its class, x, y, x, y, ... in shares, and whether it may be key points."""

    category: int
    points: list[float]
    may_be_key_points: bool

    @property
    def has_four_corners(self) -> bool:
        """Says whether it has four points, as each line of oriented boxes."""
        return len(self.points) == _CORNERS

    @property
    def numbers_in_box(self) -> int:
        """Counts its numbers if they are a box and points all over it, as key points without visibility, else 0.

        An outline's first point is no center of the others, unless they keep to a corner of that box.
        """
        box, rest = self.points[:4], self.points[4:]
        if not rest or not _are_in(box, rest):
            return 0
        spans = [max(values) - min(values) for values in (rest[::2], rest[1::2])]
        return len(self.points) if all(span > _FILLED * edge for span, edge in zip(spans, box[2:], strict=True)) else 0


def parse_line(text: str, where: str, known: dict[int, int], key_points: int | None = None) -> Line | Finding:
    """Class and coordinates of a line, or what is wrong with it.

    ``known`` are the classes. ``key_points`` is the count of key point numbers in a line, if ``data.yaml`` says so.
    """
    words = text.split()
    try:
        number, points = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        return Finding("malformed", where, f"wanted 'class x y x y ...', all numbers; got {text[:60]!r}")
    if number not in known:
        said = f"class {words[0]} is none of the {len(known)} names ({min(known)} to {max(known)}); is it off by one?"
        return Finding("unknown-category", where, said)
    other = _other_task(points, key_points)
    if other:
        return Finding("no-mask", where, other)
    if len(points) < 6 or len(points) % 2:
        return Finding("invalid-mask", where, f"wanted x and y of at least 3 points, not {len(points)} numbers")
    if not all(_is_share(value) for value in points):  # false for NaN too
        worst = max(points, key=lambda value: abs(value - 0.5))
        return Finding("invalid-mask", where, f"coordinates must be shares of the image, 0 to 1; one is {worst}")
    if _begins_with_box(points):
        text = "its first four numbers are the box of the others: a line of an outline is its class and points alone"
        return Finding("invalid-mask", where, text)
    return Line(int(number), points, looks_like_key_points(points))


def _begins_with_box(points: list[float]) -> bool:
    """Says whether the first four numbers are the box (center, size) of all others."""
    rest = points[4:]
    if len(rest) < 6:
        return False
    edges = [(min(values), max(values)) for values in (rest[::2], rest[1::2])]
    box = [(low + high) / 2 for low, high in edges] + [high - low for low, high in edges]
    return all(abs(value - wanted) <= _ROUNDED for value, wanted in zip(points[:4], box, strict=True))


def _other_task(points: list[float], key_points: int | None) -> str | None:
    """Says what a line is that can be no outline, as far as that is known."""
    count = len(points)
    if count == 4:
        return "has a box and no outline: these are labels for detection"
    if count == 5 and _is_box(points[:4]) and 0 <= points[4] <= 1:
        return "has a box, a score and no outline: these are results of detection"
    if key_points is not None and count == 4 + key_points:
        return f"has a box and {key_points} numbers of key points, as kpt_shape says: {KEY_POINTS}"
    can_be_outline = count % 2 == 0 and all(_is_share(value) for value in points)
    if not can_be_outline and looks_like_key_points(points):
        return f"has a box and {(count - 4) // 3} key points (x, y, visible): {KEY_POINTS}"
    return None


KEY_POINTS = "these are labels for pose, and no outlines"


def looks_like_key_points(points: list[float]) -> bool:
    """Says whether numbers are a box and key points in it, each with 0, 1 or 2 for its visibility.

    >>> looks_like_key_points([0.2, 0.3, 0.25, 0.3, 0.1, 0.2, 1, 0.3, 0.4, 2])
    True
    >>> looks_like_key_points([0.1, 0.1, 0.4, 0.1, 0.4, 0.4, 0.3, 0.5, 0.1, 0.4])
    False
    """
    if len(points) < 7 or (len(points) - 4) % 3 or not _is_box(points[:4]):
        return False
    visible = points[6::3]
    if not {*visible} <= {0, 1, 2} or not any(visible):
        return False
    seen = [at for at in range(4, len(points), 3) if points[at + 2]]
    return _are_in(points[:4], [points[at + axis] for at in seen for axis in (0, 1)])


def _are_in(box: list[float], points: list[float]) -> bool:
    """Says whether points x, y, x, y, ... lie in a box, or close by."""
    x, y, width, height = box
    near_x, near_y = width * (0.5 + _BESIDE), height * (0.5 + _BESIDE)
    pairs = zip(points[::2], points[1::2], strict=True)
    return _is_box(box) and all(abs(px - x) <= near_x and abs(py - y) <= near_y for px, py in pairs)


def _is_box(box: list[float]) -> bool:
    x, y, width, height = box
    if not (width > 0 and height > 0):
        return False
    return all(_is_share(value) for value in (x - width / 2, x + width / 2, y - height / 2, y + height / 2))


def _is_share(value: float) -> bool:
    return -_OUTSIDE <= value <= 1 + _OUTSIDE


def parts_of(points: list[float], size_hw: tuple[int, int]) -> list[list[float]]:
    """Returns the parts of a line, each flat in pixels: a part ends where its first point comes again.

    >>> parts_of([0, 0, 1, 0, 1, 1, 0, 0, 0.5, 0, 1, 0.5, 0, 1], (10, 10))
    [[0, 0, 10, 0, 10, 10], [5.0, 0, 10, 5.0, 0, 10]]
    """
    height, width = size_hw
    parts: list[list[float]] = []
    part: list[float] = []
    first = None
    for point in zip(points[::2], points[1::2], strict=True):
        if first is None:
            first = point
        elif point == first and len(part) >= 6:
            parts.append(part)
            part, first = [], None
            continue
        part += [point[0] * width, point[1] * height]
    return [part for part in [*parts, part] if len(part) >= 6]
