"""Makes the job to submit: a command line and a config, checked here as the job itself will check them."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from m2f_batch.config.data import is_inline
from m2f_batch.config.finetune import TIMM, FinetuneConfig
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.errors import UsageError
from m2f_batch.inputs.places import check_listable, check_output
from m2f_batch.ray_session.forwarded import endpoints, forwarded
from m2f_batch.result import STDOUT, VARIABLE
from m2f_batch.storage import allow, uris
from m2f_batch.submit.portable import check_no_secrets, check_portable, is_hub_id

CONFIG_FILE = "job.yaml"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
# from the signal to SIGKILL: units under way are finished for 15 s, a checkpoint of a training is written. Ray's is 3
STOP_WAIT_SECONDS = "60"
TOKEN_KEY = "--set compute.allow_no_token=true"

SEGMENT_PLACES = ("input.uri", "input.root", "output.uri")
FINETUNE_PLACES = (
    *("data.train", "data.train_images", "data.train_masks", "data.val", "data.val_images", "data.val_masks"),
    "output.uri",
)


class _Dumper(yaml.SafeDumper):
    """Writes YAML with each text in quotes, because the loader takes bare texts for numbers that this does not (1e5).

    JSON would not do, because PyYAML reads some of its texts otherwise: escaped surrogates, a bare NEL.
    """


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@dataclass(frozen=True)
class Job:
    """A job's command line and config.

    Attributes:
        name: segment, finetune or evaluate.
        config: the text of ``CONFIG_FILE``, where the job has one.
    """

    name: str
    arguments: tuple[str, ...]
    config: str | None = None
    allow_no_token: bool = False
    how_to_allow: str = TOKEN_KEY

    def settings(self, variables: Mapping[str, str]) -> str:
        """Hash what is asked for, and of which object store. Every version of this package gives the same hash."""
        stores = sorted(endpoints(variables).items())
        return hashlib.sha256(json.dumps([self.name, self.arguments, self.config, stores]).encode()).hexdigest()[:16]


def segment_job(config: SegmentConfig, *, is_dry_run: bool = False) -> Job:
    """Make a segment job for a cluster. Raises UsageError for what would mean something else there, or be refused."""
    _check(config, SEGMENT_PLACES, ("model.uri",))
    check_listable(config.input.uri)
    if not uris.has_glob(config.input.uri):  # which is matched by a library that the client does not bring
        check_output(config.input.uri, config.output.uri, is_elsewhere=True)
    return _with_config("segment", config, ("--dry-run",) if is_dry_run else ())


def finetune_job(config: FinetuneConfig) -> Job:
    """Make a finetune job for a cluster. Raises UsageError as ``segment_job`` does."""
    _check(config, FINETUNE_PLACES, ("model.uri", "model.backbone"))
    return _with_config("finetune", config, ())


def evaluate_job(run_uri: str, options: Mapping[str, Any], *, allow_no_token: bool = False) -> Job:
    """Make an evaluate job for a cluster. ``options`` have the command line's names, None and False mean not given."""
    named = {name: options.get(name) for name in ("--ground-truth", "--images", "--masks", "--json")}
    named["--json"] = None if named["--json"] == STDOUT else named["--json"]  # of the job: its log, which is followed
    files = {name: options.get(name) for name in ("--names", "--palette") if not is_inline(options.get(name) or "")}
    check_portable({"RUN": run_uri, **named, **files})
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    check_no_secrets({"RUN": run_uri, **given})
    flags = [f"{name}={value}" if value is not True else name for name, value in given.items()]
    return Job("evaluate", (*flags, "--", run_uri), None, allow_no_token, "--allow-no-token")


def runtime_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that travel with a job, in its metadata. Raises UsageError where one holds a key."""
    variables = forwarded(environ) | {STOP_WAIT: environ.get(STOP_WAIT, STOP_WAIT_SECONDS), VARIABLE: STDOUT}
    check_no_secrets(variables)
    return variables


def _check(config: SegmentConfig | FinetuneConfig, places: tuple[str, ...], models: tuple[str, ...]) -> None:
    address = config.compute.address
    if address not in (None, "auto"):
        raise UsageError(
            "does not apply to a job that is submitted, which runs on the cluster of --address",
            field="compute.address",
            value=address,
            hint="leave it out, or give auto",
        )
    allowed = {f"storage.allow ({place})": place for place in config.storage.allow or ()}
    files = config.data.files_named if isinstance(config, FinetuneConfig) else {}
    named = {key: _value(config, key) for key in places} | files
    check_portable(named | allowed, {key: _value(config, key) for key in models})
    check_no_secrets(config.model_dump(mode="json"))
    with allow.confine(config.storage.allow, named, is_elsewhere=True):
        for key in models:
            _check_model_allowed(key, _value(config, key), config.model.revision)


def _check_model_allowed(field: str, uri: str | None, revision: str | None) -> None:
    """Raise UsageError for a model on the web, and for one that the job's own list leaves out.

    Models of timm are left to the job, because timm alone knows their places on the hub.
    """
    if uri is None or uri.startswith(TIMM):
        return
    name, _, inline = uri.partition("@")
    try:
        uris.check_model(uri)
        allow.check(allow.hub_place(name, inline or revision) if is_hub_id(uri) else uri.rstrip("/"))
    except (allow.NotAllowed, UsageError) as error:
        raise UsageError.about(field, error) from None


def _value(config: SegmentConfig | FinetuneConfig, key: str) -> str | None:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _with_config(name: str, config: SegmentConfig | FinetuneConfig, flags: tuple[str, ...]) -> Job:
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree.get("compute", {}).pop("address", None)  # the driver finds its cluster in RAY_ADDRESS, which Ray sets
    text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return Job(name, ("--config", CONFIG_FILE, *flags), text, config.compute.allow_no_token)
