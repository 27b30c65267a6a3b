"""The segment job for ``ray job submit -- python jobs/segment.py ...``, with the options of ``m2f-batch segment``."""

import sys

from m2f_batch.cli import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
