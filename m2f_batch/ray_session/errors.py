"""Turns what Ray raises into the errors of this package."""

from ray.exceptions import RayError, RayTaskError

from m2f_batch.errors import RunError, TransientError, UsageError


def run_error(error: RayError) -> Exception:
    """Turn a Ray exception into our own error behind it, a bug as it is, or else a failed run in one line."""
    cause: BaseException | None = error
    innermost: BaseException = error
    while cause is not None:
        innermost = cause
        # Ray's copy of an error is one of its own kind too, with a traceback for its text
        if isinstance(cause, (RunError, UsageError, TransientError)) and not isinstance(cause, RayError):
            # Ray Data appends how its own retries could be configured
            text, added, _ = str(cause).partition("\nFailed to apply UDF transform")
            return type(cause)(text) if added and len(cause.args) == 1 else cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    if type(innermost).__name__ == "OutOfMemoryError":  # torch's, which a driver does not import
        return RunError("out of memory on the device; lower compute.batch_size, or take a smaller preprocess.size")
    if isinstance(error, RayTaskError) and not isinstance(innermost, RayError | OSError | MemoryError):
        return error
    lines = [line for line in str(error).splitlines() if line.strip()]
    return RunError(f"Ray: {type(error).__name__}: {lines[-1] if lines else ''}"[:500])
