"""Keeps what the pictures of the documents have in common: where they lie, their colors, and how small they are."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from benchmarks.lib.timing import PROJECT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = PROJECT / "docs" / "pictures"
OURS, THEIRS, INK, FAINT = "#2563eb", "#f59e0b", "#1f2937", "#9ca3af"
MOST_BYTES = 200_000


def save(figure: "Figure", name: str, dpi: int = 120) -> Path:
    """Write a figure as a PNG of few colors. Raises ValueError where it would be larger than a page should load."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.1)
    return save_image(Image.open(drawn).convert("RGB"), name)


def save_image(image: Image.Image, name: str) -> Path:
    """Write an image as a PNG of few colors, or as a JPEG by its name. Raises ValueError as ``save``."""
    small = io.BytesIO()
    if name.endswith(".jpg"):
        image.save(small, format="jpeg", quality=88, optimize=True)
    else:
        image.quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    if len(small.getvalue()) > MOST_BYTES:
        raise ValueError(f"{name}: {len(small.getvalue()):,} bytes are more than {MOST_BYTES:,}")
    file = PICTURES / name
    file.write_bytes(small.getvalue())
    print(f"{file.relative_to(PROJECT)}: {len(small.getvalue()):,} bytes")
    return file
