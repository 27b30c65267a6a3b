"""Writes the pages of docs/reference/ from the code: ``make reference``. A test compares what is there with this.

python infra/docs/write_reference.py [FOLDER]
"""

import sys
from pathlib import Path

from reference_pages import cli, config, errors, metrics, python_names, run_directory

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES = {
    "cli.md": cli.page,
    "config.md": config.page,
    "errors.md": errors.page,
    "metrics.md": metrics.page,
    "python.md": python_names.page,
    "run-directory.md": run_directory.page,
}


def main(folder: Path) -> None:
    """Write all pages into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FOLDER)
