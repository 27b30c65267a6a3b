"""``m2f-batch status RUN``: what is done, what failed and why, what is left; counted from the committed files."""

from m2f_batch.storage.run import open_existing_run


def status(run_uri: str) -> int:
    """Print the state of a run; always 0 for a run that exists."""
    run = open_existing_run(run_uri)
    info = run.read_info()
    tally, listed = run.tally(), info["images"]["listed"]
    remaining = listed - tally.ok - tally.error
    state = f"finished at {info['finished_at']}" if run.is_finished() else "not finished"
    print(f"{run.uri}: {state}; started at {info['started_at']}")
    print(f"model   {info['model']['uri']} ({info['task']}, licence {info['model']['license']})")
    others = f"{info['images']['skipped']:,} skipped, {info['images']['duplicates']:,} duplicates"
    print(f"images  {listed:,} listed = {tally.ok:,} ok + {tally.error:,} error + {remaining:,} remaining; {others}")
    rate, seconds = info["images_per_second"], info["seconds"]
    print(f"rate    {rate:.1f} images/s over {seconds:.0f} s; {tally.segments:,} segments")
    for reason, count in tally.reasons.most_common():
        print(f"failed  {count:,} x {reason}")
    return 0
