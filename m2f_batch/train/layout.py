"""Names the files in OUTPUT of a training. Imports no torch."""

from collections import defaultdict

from m2f_batch.runs.held_folder import HeldFolder
from m2f_batch.storage.retries import retry_write

INFO = "finetune.json"
MODEL_FILES = ("model.safetensors", "preprocessor_config.json", "README.md", "config.json")  # written in this order
METRICS, CURVES, EVENTS = "metrics.jsonl", "curves.png", "tensorboard"
CHECKPOINTS, STATE, MARKER = "checkpoints", "state.pt", "checkpoint.json"  # the marker is written last
NONFINITE = "nonfinite"  # batches whose loss was not finite


def complete(place: HeldFolder) -> list[int]:
    """List the steps of all whole checkpoints, ascending."""
    return [step for step, names in begun(place).items() if MARKER in names]


def begun(place: HeldFolder) -> dict[int, set[str]]:
    """Map the steps of all checkpoints, ascending, to their files. A kill leaves one without its marker."""
    steps = defaultdict[int, set[str]](set)
    for entry in retry_write(lambda: [*place.store.list(f"{place.path(CHECKPOINTS)}/")]):
        folder, _, name = entry.uri.removeprefix(f"{place.path(CHECKPOINTS)}/").partition("/")
        if folder.isdigit():
            steps[int(folder)].add(name)
    return dict(sorted(steps.items()))
