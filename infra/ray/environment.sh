# .venv/bin/ray up infra/ray/machines.yaml: what Ray's processes are started with on every machine, and so all jobs.
export RAY_raylet_start_wait_time_s=180  # Ray's 30 were seen to be too few on a loaded machine
# All that jobs may read and write: the places of jobs/. Models of the hub: hf://facebook/ besides.
export M2F_BATCH_ALLOW="s3://my-bucket/images/ s3://my-bucket/annotations.json s3://my-bucket/models/mask2former \
s3://my-bucket/labels s3://my-bucket/tuned"
