"""Seeded random schedules of kills and S3 faults, one after the other: nothing may be lost, doubled or changed.

    PYTHONPATH=tests python tests/chaos/run_chaos.py --schedules 20 --seed 1 --report report.jsonl

A line of JSON per schedule, a table at the end. Schedules whose events mostly came too late, or found no victim, do not
count; others are drawn in their place. The exit code is 0 when every schedule, counted or not, kept all promises.
"""

import argparse
import json
import signal
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from cluster import ClusterDied
from lab import Lab, lab
from schedules import draw_schedule

IMAGES = 120


def main() -> int:
    """Run the program; returns its exit code."""
    options = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job has SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    with lab(options.images, options.s3, options.report.parent / "logs") as place, open(options.report, "w") as file:
        results = []
        for number in range(2 * options.schedules):
            if sum(result["counts"] for result in results) >= options.schedules:
                break
            result = carry_out(place, options.seed + number, options)
            results.append(result)
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(line_of(result), flush=True)
            for text in [exit_.get("said", "") for exit_ in result.get("exits", [])] + result["problems"]:
                if text:
                    print(f"      {text}", flush=True)
    for line in table_of(results):
        print(line)
    enough = sum(result["counts"] for result in results) >= options.schedules
    return 0 if enough and not any(result["problems"] for result in results) else 1


def carry_out(place: Lab, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One schedule; a harness that fails is a schedule that does not count."""
    schedule = draw_schedule(seed, options.place)
    try:
        return place.carry_out(schedule)
    except (ClusterDied, RuntimeError, OSError) as error:
        traceback.print_exc()
        return {**schedule.describe(), "counts": False, "problems": [f"not carried out: {error}"[:500]]}


def line_of(result: dict[str, Any]) -> str:
    """A schedule in one line."""
    done = ", ".join(f"{event['kind']}{'' if event['done'] else ' (nobody)'}" for event in result.get("done", []))
    return (
        f"seed {result['seed']:4}  {result['place']:4}  {'ok ' if not result['problems'] else 'BAD'}"
        f"  {'' if result['counts'] else '(does not count)  '}{result.get('events_done', 0)} of {len(result['events'])}"
        f" events  {sum(result.get('faults', {}).values())} faults  {result.get('attempts', 0)} attempts"
        f"  {result.get('seconds', 0):.0f} s  [{done}]"
    )


def table_of(results: list[dict[str, Any]]) -> list[str]:
    """The totals, a line each."""
    counted = [result for result in results if result["counts"]]
    events = Counter(event["kind"] for result in counted for event in result["done"] if event["done"])
    faults: Counter[str] = Counter()
    for result in counted:
        faults.update(result["faults"])
    failed = [exit_ for result in counted for exit_ in result["exits"] if exit_["code"] and not exit_["ended_by"]]
    totals = {name: sum(result.get(name, 0) for result in results) for name in ("lost", "doubled", "changed")}
    return [
        "",
        f"schedules            {len(counted)} counted, {len(results) - len(counted)} not",
        f"events done          {events.total()}: {', '.join(f'{n} {kind}' for kind, n in events.most_common())}",
        f"S3 faults injected   {faults.total()}: {', '.join(f'{n} {kind}' for kind, n in faults.most_common())}",
        f"commands given       {sum(result['attempts'] for result in counted)}",
        f"of them failed       {len(failed)} without a signal",
        f"rows compared        {sum(result['rows'] for result in counted)}",
        *(f"rows {name:8}        {count}" for name, count in totals.items()),
        f"schedules with problems  {sum(bool(result['problems']) for result in results)}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedules", type=int, default=20, help="how many must count [20]")
    parser.add_argument("--seed", type=int, default=1, help="of the first; the others follow [1]")
    parser.add_argument("--report", type=Path, default=Path("demo-run/chaos/report.jsonl"), help="logs go beside it")
    parser.add_argument("--s3", choices=["moto", "ceph"], default="moto", help="the S3 server [moto]")
    parser.add_argument("--place", choices=["disk", "s3"], help="all schedules there; by seed if not given")
    parser.add_argument("--images", type=int, default=IMAGES, help=f"[{IMAGES}]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
