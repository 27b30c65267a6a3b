"""SIGKILL to the driver at random moments of one run: how much is done twice, and that it is never visible twice.

    PYTHONPATH=tests python tests/chaos/driver_kills.py --kills 10 --seed 1 --place disk

Each moment is drawn from the seconds after the driver's actors labelled their first unit; the command is given again at
once. Workers note each unit that they labelled to its end (``unit_hook``). The exit code is 0 when no more units were
labelled again than kills x actors, and the run is otherwise as one never disturbed.
"""

import argparse
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from drivers import HELD, Drivers, environment_of, segment_arguments
from judge import judge
from lab import MODEL, Lab, lab
from witness import Witness

IMAGES, PER_FILE, PER_UNIT, ACTORS = 400, 20, 4, 2
SECONDS_PER_IMAGE = 0.4  # slept; with 2 actors of 2 units each some 2 units per second
LONGEST_MOMENT = 5.0  # seconds after the first unit
LONGEST_SECONDS = 1800


def kill_drivers(place: Lab, name: str, kills: int, seed: int) -> dict[str, Any]:
    """Do it on one storage (disk or s3); returns what happened."""
    rng, storage, hook = random.Random(f"driver kills {seed}"), place.storages[name], place.hook
    uri, expected = storage.at("killed"), place.expected(name)
    settings = {
        "output.images_per_file": str(PER_FILE),
        "run.images_per_unit": str(PER_UNIT),
        "compute.actors": str(ACTORS),
    }
    arguments = segment_arguments(storage.source, uri, MODEL, settings, place.cluster.address)
    hook.begin(SECONDS_PER_IMAGE)
    began, moments, again, code = time.monotonic(), [], [], None
    log = place.folder / f"killed-{name}.log"
    with Drivers(environment_of(storage.variables), log) as drivers, Witness(storage, uri) as witness:
        while time.monotonic() < began + LONGEST_SECONDS:
            before = {pid for _, pid in hook.lines()}
            driver = drivers.start(arguments)
            killing = len(moments) < kills
            while not driver.is_over():
                time.sleep(0.1)
                if killing and {pid for _, pid in hook.lines()} - before:
                    moments.append(round(rng.uniform(0, LONGEST_MOMENT), 2))
                    time.sleep(moments[-1])
                    driver.signal(signal.SIGKILL)
                    driver.process.wait()
                    break
            code = driver.process.wait()
            again.append(_again(hook.labelled()))
            if code == HELD:  # a driver that was killed holds OUTPUT until its lease ends
                time.sleep(1)
            elif code != -signal.SIGKILL:
                break
        witness.poll()
        exits = drivers.exits
    verdict = judge(storage, uri, expected)
    labelled = hook.labelled()
    problems = [*witness.violations, *verdict.problems]
    if code or len(moments) < kills:
        problems.append(f"exit code {code} after {len(moments)} of {kills} kills")
    if _again(labelled) > kills * ACTORS:
        problems.append(f"{_again(labelled)} units were labelled again; allowed: {kills} kills x {ACTORS} actors")
    return {
        "place": name,
        "kills": len(moments),
        "moments": moments,
        "units": len(labelled),
        "labelled_again": _again(labelled),
        "labelled_again_by_attempt": [after - sooner for sooner, after in zip([0, *again], again, strict=False)],
        "polls": witness.polls,
        "attempts": len(exits),
        "exits": [exit_["code"] for exit_ in exits],
        "seconds": round(time.monotonic() - began, 1),
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "changed": verdict.changed,
        "problems": problems,
    }


def _again(labelled: dict[str, int]) -> int:
    return sum(count - 1 for count in labelled.values())


def main() -> int:
    """Run the program; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", choices=["disk", "s3"], default="disk")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--s3", choices=["moto", "ceph"], default="moto")
    parser.add_argument("--logs", type=Path, default=Path("demo-run/chaos/logs"))
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job has SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    with lab(options.images, options.s3 if options.place == "s3" else None, options.logs) as place:
        result = kill_drivers(place, options.place, options.kills, options.seed)
    print(json.dumps(result, indent=2))
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
