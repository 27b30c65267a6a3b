"""Every night what is new, by Airflow 3 and its KubernetesPodOperator.

Copy this file and pod.yaml into the folder of DAGs. What must be there, once:

    sh infra/kubernetes/ray-token.sh && kubectl apply -k infra/kubernetes/overlays/cluster
    kubectl apply -f infra/schedulers/airflow-access.yaml     # Airflow may start pods in namespace m2f-batch

and the image that pod.yaml names. Airflow pauses a new DAG: `airflow dags unpause` begins it.

The task's log is the job's. Its XCom (`return_value`) is the command's result, of a failure too: totals, OUTPUT,
run_id, exit code, error. Exit codes 2 (refused) and 3 (too many broken images) fail at once, for another try would say
the same. All others are tried again, and go on. The run of the DAG names the submission, so that a try that finds its
job running follows it, and a job that is done is not done again. A task that is ended by hand leaves its job, which
`m2f-batch submit follow ID --address URL` and Ctrl-C stop. In that order: a job that is stopped while its task waits
for it goes on with the task's next try.
"""

import shlex
from datetime import datetime, timedelta
from pathlib import Path

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import V1Capabilities, V1SecurityContext

COMMAND = shlex.split("""
m2f-batch submit segment --address http://m2f-batch-head-svc:8265 --config /etc/m2f-batch/nightly.yaml
    --submission-id airflow-{{dag_run.run_after|ts_nodash}} --result /airflow/xcom/return.json
""")


class SubmitOperator(KubernetesPodOperator):
    """A pod whose failure is tried again only where its result says that this may help."""

    def cleanup(self, pod, remote_pod, xcom_result=None, context=None):
        """Do as the operator does. Where the pod was killed, there is no result."""
        try:
            super().cleanup(pod, remote_pod, xcom_result=xcom_result, context=context)
        except AirflowException as error:
            if xcom_result and not xcom_result["retry"]:
                raise AirflowFailException(xcom_result["error"]) from error
            raise


with DAG(
    "m2f_batch_nightly",
    schedule="15 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,  # a second would end with 2: OUTPUT is held
    dagrun_timeout=timedelta(hours=20),
):
    SubmitOperator(
        task_id="segment",
        pod_template_file=str(Path(__file__).with_name("pod.yaml")),
        base_container_name="submit",
        cmds=COMMAND[:1],
        arguments=COMMAND[1:],
        do_xcom_push=True,
        # the sidecar that hands the result over, as the namespace's security standard wants it
        xcom_sidecar_container_security_context=V1SecurityContext(
            allow_privilege_escalation=False, capabilities=V1Capabilities(drop=["ALL"])
        ),
        retries=2,
        retry_delay=timedelta(minutes=10),
    )
