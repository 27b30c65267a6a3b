"""Makes the page of exit codes, errors of rows and findings, from the tables that the code has of them."""

from m2f_batch.datasets.lint.kinds import KINDS
from m2f_batch.errors import EXIT_CODES, REASONS
from reference_pages.markdown import MADE, code, joined, table, text_of

ROWS = """\
An image that cannot be labeled has a row with status `error`, and in it the stage, the reason (`type`) and a message.
Such rows are no failure of the run. `--retry errors` labels these images again, and `--retry errors=decode/Truncated`,
or `--retry errors=fetch`, some of them. `m2f-batch explain RUN IMAGE` says more of one.

What fails in passing, such as a time-out or a throttled request, is tried again and never becomes a row: the image
remains, and the run ends with 1."""
FINDINGS = """\
What `m2f-batch lint` reports about a dataset. Faults make its exit code 1. `--ignore KIND` leaves a kind out, and with
`--drop-faulty` `convert` leaves out the images that have a fault."""


def page() -> str:
    """Return reference/errors.md."""
    codes = ((str(number), text) for number, text in EXIT_CODES.items())
    reasons = ((code(name), ", ".join(stages), text_of(text)) for name, (stages, text) in REASONS.items())
    kinds = (
        (code(name), _severity(kind.is_fault, kind.tolerated), text_of(kind.effect), text_of(kind.advice))
        for name, kind in KINDS.items()
    )
    return joined(
        "# Errors",
        f"How commands end, why an image has no label, and what is found in a dataset. {MADE}",
        "## Exit codes",
        table(["code", "meaning"], codes),
        "`--result FILE` writes the code and the reason as JSON, also whether the same command may end otherwise.",
        "## Errors of rows",
        ROWS,
        table(["reason", "stages", "meaning"], reasons),
        "## Findings of lint",
        FINDINGS,
        table(["finding", "severity", "effect on training", "what to do"], kinds),
    )


def _severity(is_fault: bool, tolerated: float) -> str:
    if not is_fault:
        return "note"
    return f"fault above {tolerated:.2g} of the annotations" if tolerated else "fault"
