"""The evaluate job for ``ray job submit -- python jobs/evaluate.py ...``: the options of ``m2f-batch evaluate``."""

import sys

from m2f_batch.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
