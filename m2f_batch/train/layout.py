"""Names of what a training keeps in OUTPUT, below which nothing heavy is loaded."""

INFO = "finetune.json"
MODEL_FILES = ("model.safetensors", "preprocessor_config.json", "README.md", "config.json")  # written in this order
METRICS, CURVES, EVENTS = "metrics.jsonl", "curves.png", "tensorboard"
CHECKPOINTS, STATE, MARKER = "checkpoints", "state.pt", "checkpoint.json"  # the marker is written last
NONFINITE = "nonfinite"  # batches whose loss was not finite
