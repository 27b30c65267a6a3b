# .venv/bin/ray up infra/ray/machines.yaml: what Ray's processes are started with on every machine, and so all jobs.
# All that jobs may read and write: the places of jobs/. Models of the hub: hf://facebook/ besides.
export M2F_BATCH_ALLOW="s3://my-bucket/images/ s3://my-bucket/annotations.json s3://my-bucket/models/mask2former \
s3://my-bucket/labels s3://my-bucket/tuned"
