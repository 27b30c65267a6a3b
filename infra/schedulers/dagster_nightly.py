"""Every night what is new, by Dagster: an asset whose metadata is what the run has counted.

    pip install dagster ./infra/client            # where the code location runs, since the command only waits
    export RAY_API_SERVER_ADDRESS=https://ray.example.com RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=/run/secrets/ray
    dagster dev -f infra/schedulers/dagster_nightly.py        # from the folder that jobs/ is in

Dagster starts no schedule by itself: switch it on in its page, once.

The cluster is there (`kubectl apply -k infra/kubernetes/overlays/cluster` and `-f infra/kubernetes/ingress.yaml`, or
machines). The log of the step is the
job's. Exit codes 2 (refused) and 3 (too many broken images) fail at once, for another try would say the same. All
others are tried again, and go on. The run's id, or that of the run that it executes again, names the submission, so
that a try that finds its job running follows it. A run that is terminated leaves its job, which
`m2f-batch submit follow ID --address URL` and Ctrl-C stop. In that order: a job that is stopped while its run waits for
it goes on with the run's next try.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import dagster

COMMAND = "m2f-batch submit segment --config jobs/nightly.yaml --submission-id {name} --result {file}"


@dagster.asset(retry_policy=dagster.RetryPolicy(max_retries=2, delay=600))
def labels(context: dagster.AssetExecutionContext) -> dagster.MaterializeResult:
    """Rows of COCO RLE labels, one for each image."""
    name = f"dagster-{context.run.root_run_id or context.run.run_id}"
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        done = subprocess.run(COMMAND.format(name=name, file=file.name).split(), check=False)
        text = Path(file.name).read_text()
    result = json.loads(text) if text else {"retry": True, "error": "killed"}  # it is written at the end
    metadata = {key: value for key, value in result.items() if value is not None}
    if done.returncode:
        raise dagster.Failure(result["error"], metadata=metadata, allow_retries=result["retry"])
    return dagster.MaterializeResult(metadata=metadata)


nightly = dagster.ScheduleDefinition(
    name="nightly", target=labels, cron_schedule="15 2 * * *", execution_timezone="Etc/UTC"
)
definitions = dagster.Definitions(assets=[labels], schedules=[nightly])
