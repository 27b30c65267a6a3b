"""Names the files in OUTPUT of a training. Imports no torch."""

from m2f_batch.runs.held_folder import HeldFolder
from m2f_batch.storage.retries import retry_write
from m2f_batch.storage.store import Entry

INFO = "finetune.json"
MODEL_FILES = ("model.safetensors", "preprocessor_config.json", "README.md", "config.json")  # written in this order
METRICS, CURVES, EVENTS = "metrics.jsonl", "curves.png", "tensorboard"
CHECKPOINTS, STATE, MARKER = "checkpoints", "state.pt", "checkpoint.json"  # the marker is written last
NONFINITE = "nonfinite"  # batches whose loss was not finite


def complete(place: HeldFolder) -> list[int]:
    """List the steps of all whole checkpoints, ascending."""
    steps = []
    for entry in _files(place):
        folder, _, name = entry.uri.removeprefix(f"{place.path(CHECKPOINTS)}/").partition("/")
        if name == MARKER and folder.isdigit():
            steps.append(int(folder))
    return sorted(steps)


def _files(place: HeldFolder) -> list[Entry]:
    return retry_write(lambda: [*place.store.list(f"{place.path(CHECKPOINTS)}/")])
