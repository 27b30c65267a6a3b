"""Describes the hub of Hugging Face: ``hf://``, and the tokens and the switch that its models are fetched with, too."""

from m2f_batch.backends import Backend

BACKEND = Backend(
    schemes=("hf",),
    opener="m2f_batch.storage.arrow:open_store",
    forwarded=("HF_HUB_OFFLINE",),
    secrets=("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
    secret_files=("HF_TOKEN_PATH",),
    secret_files_in=(
        ("HF_HOME", "token"),
        ("XDG_CACHE_HOME", "huggingface/token"),
        ("HOME", ".cache/huggingface/token"),
    ),
)
