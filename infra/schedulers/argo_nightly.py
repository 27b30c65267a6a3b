"""Every night what is new, by Argo Workflows (3.6 or newer), written with hera.

    sh infra/kubernetes/ray-token.sh && kubectl apply -k infra/kubernetes/overlays/cluster
    kubectl apply -f infra/schedulers/argo-access.yaml
    pip install 'hera[yaml]' && python infra/schedulers/argo_nightly.py | kubectl apply -f -

The workflow's output parameter `result` is the command's result, of a failure too: totals, OUTPUT, run_id, exit code,
error. Exit codes 2 (refused) and 3 (too many broken images) fail at once, for another try would say the same. All
others are tried again, and go on. The workflow's name is the submission's, so that a try that finds its job running
follows it. A workflow that is stopped leaves its job, which `m2f-batch submit follow ID --address URL` and Ctrl-C stop.
In that order: a job that is stopped while its workflow waits for it goes on with the next try.
"""

import shlex
from pathlib import Path

import yaml
from hera.workflows import Container, CronWorkflow, Parameter, RetryStrategy, models

COMMAND = shlex.split("""
m2f-batch submit segment --address http://m2f-batch-head-svc:8265 --config /etc/m2f-batch/nightly.yaml
    --submission-id {{workflow.name}} --result /tmp/result.json
""")
POD = yaml.safe_load(Path(__file__).with_name("pod.yaml").read_text())
(SUBMIT,) = POD["spec"]["containers"]

with CronWorkflow(
    name="m2f-batch-nightly",
    namespace=POD["metadata"]["namespace"],
    schedules=["15 2 * * *"],
    timezone="Etc/UTC",
    concurrency_policy="Forbid",  # a second would end with 2: OUTPUT is held
    starting_deadline_seconds=14400,
    entrypoint="segment",
    service_account_name="m2f-batch-argo",
    security_context=models.PodSecurityContext.model_validate(POD["spec"]["securityContext"]),
    volumes=[models.Volume.model_validate(each) for each in POD["spec"]["volumes"]],
    active_deadline_seconds=72000,
    ttl_strategy=models.TTLStrategy(seconds_after_completion=604800),
) as workflow:
    Container(
        name="segment",
        image=SUBMIT["image"],
        command=COMMAND[:1],
        args=COMMAND[1:],
        env=[models.EnvVar.model_validate(each) for each in SUBMIT["env"]],
        security_context=models.SecurityContext.model_validate(SUBMIT["securityContext"]),
        resources=models.ResourceRequirements.model_validate(SUBMIT["resources"]),
        volume_mounts=[models.VolumeMount.model_validate(each) for each in SUBMIT["volumeMounts"]],
        outputs=[Parameter(name="result", value_from=models.ValueFrom(path=COMMAND[-1], default="null"))],
        retry_strategy=RetryStrategy(
            limit=2,
            retry_policy="Always",  # lost nodes too, whose exit code is -1
            expression="asInt(lastRetry.exitCode) not in [2, 3]",
            backoff=models.Backoff(duration="10m"),
        ),
    )

if __name__ == "__main__":
    print(workflow.to_yaml())
