"""``ray job submit -- python jobs/finetune.py DATASET OUTPUT ...``: the finetune command, on the cluster."""

import sys

from m2f_batch.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
