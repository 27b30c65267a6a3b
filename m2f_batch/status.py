"""``m2f-batch status RUN``: what is done, what failed and why, what is left; from storage alone."""

from m2f_batch.storage.run import open_existing_run


def status(run_uri: str) -> int:
    """Print the state of a run; always 0 for a run that exists."""
    run = open_existing_run(run_uri)
    info = run.read_info()
    counts = info["images"]
    state = f"finished at {info['finished_at']}" if run.is_finished() else "not finished"
    print(f"{run.uri}: {state}; started at {info['started_at']}")
    print(f"model   {info['model']['uri']} ({info['task']}, licence {info['model']['license']})")
    print(
        f"images  {counts['listed']:,} listed = {counts['ok']:,} ok + {counts['error']:,} error"
        f" + {counts['remaining']:,} remaining; {counts['skipped']:,} skipped, {counts['duplicates']:,} duplicates"
    )
    print(
        f"rate    {info['images_per_second']:.1f} images/s over {info['seconds']:.0f} s; {info['segments']:,} segments"
    )
    for reason, count in info["errors"].items():
        print(f"failed  {count:,} x {reason}")
    return 0
