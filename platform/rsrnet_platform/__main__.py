"""``python -m rsrnet_platform JOB.yaml [options]``: what the first line of a job file calls."""

import sys

from rsrnet_platform.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
