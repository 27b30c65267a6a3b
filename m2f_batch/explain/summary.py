"""Says an explanation in some twenty lines for the terminal."""

from collections.abc import Iterator

from m2f_batch.explain.definition import Definition
from m2f_batch.explain.recorded import Setup
from m2f_batch.explain.report import Report, category_name
from m2f_batch.explain.rerun import Findings
from m2f_batch.runs.forward_kinds import forward_lines
from m2f_batch.storage.uris import shown

SHOWN = 4  # segments, and dropped candidates, that are said


def lines_of_input(found: Findings, setup: Setup) -> Iterator[str]:
    """Say what the image and the model are, from storage to canvas."""
    yield f"image   {shown(found.ref.uri)}"
    if found.version is not None and found.version != found.ref.version:
        yield f"        has changed: version {found.ref.version} was listed, now it is {found.version}"
    header = found.header
    if header is not None:
        kind = f"{header['format']} {header.get('mode', '')}" if header["format"] else "no known format"
        yield f"        {header['bytes']:,} bytes, {kind}; EXIF orientation {header.get('exif_orientation') or 'none'}"
        for note in header["notes"]:
            yield f"        {note}"
    if found.prepared is not None:
        output, content, canvas = found.frame.output, found.frame.content, found.frame.canvas
        scale = f"{content[0] / output[0]:.3g} x {content[1] / output[1]:.3g}"
        windows = len(found.prepared.views)
        where = f"on a canvas of {_size(canvas)}"
        if windows > 1:
            where = f"in {windows} windows of {_size(found.view.content_hw)}"
        yield f"size    {_size(output)} (height x width) to {_size(content)} (x {scale}) {where}"
        device = setup.device if setup.device == "cuda" else f"cpu, {setup.threads} threads"
        revision = f" @ {setup.source.revision[:12]}" if setup.source.revision else ""
        yield f"model   {setup.source.uri}{revision}: {setup.labeling.task}, {setup.labeling.precision}, {device}"
        if setup.recorded_device != setup.device:
            yield f"        the run was on {setup.recorded_device}, which is not to be had here: expect other rounding"


def lines_of_result(found: Findings, setup: Setup, report: Report) -> Iterator[str]:
    """Say what came of the image, why, and whether it is the run's row."""
    error = report.tree["error"]
    if error is not None:
        yield f"failed  {error['stage']}/{error['type'] or 'bug'}: {error['message']}"
    if report.definition is not None:
        yield from _class_lines(report, setup) if report.classes else _query_lines(report.definition, setup)
        yield from _segment_lines(found, report)
    if found.checked is not None and (warning := found.checked.warning()):
        yield f"        {warning}"
    for line in forward_lines(setup.info.forward):
        yield f"        of the run, {line}"
    yield "seconds " + ", ".join(f"{stage} {seconds:.3f}" for stage, seconds in found.seconds.items())
    comparison = report.comparison
    yield "row     " + ("the same as the run's, in every column" if comparison["same"] else "not the run's:")
    for line in comparison["differs"]:
        yield f"        {shown(line)}"
    fingerprint = report.tree["run"]["fingerprint"]
    yield f"        fingerprint: {'the same' if fingerprint['same'] else 'another'}"
    for line in [*fingerprint["differs"], *report.tree["run"]["versions_changed"]]:
        yield f"        {line}"


def _query_lines(definition: Definition, setup: Setup) -> Iterator[str]:
    reasons = dict.fromkeys(["kept", *(item.reason for item in definition.judged)], 0)
    for item in definition.judged:
        reasons[item.reason] += 1
    queries = len({item.query for item in definition.judged})
    yield f"queries {queries}: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    close = [item for item in definition.judged if not item.segments]
    for item in sorted(close, key=lambda item: -item.class_score)[:SHOWN]:
        yield f"        q{item.query} {category_name(item, setup)} dropped, {item.reason}: {item.detail}"


def _class_lines(report: Report, setup: Setup) -> Iterator[str]:
    without = sorted((item for item in report.classes if not item.pixels), key=lambda item: -item.highest)
    yield f"classes {len(report.classes)}: {len(report.classes) - len(without)} win pixels, {len(without)} none"
    for item in without[:SHOWN]:
        name = setup.labeling.categories[item.category_id].name
        yield f"        {name} wins no pixel; the highest value it reaches is {item.highest:.4g}"


def _segment_lines(found: Findings, report: Report) -> Iterator[str]:
    assert found.segments is not None and report.definition is not None
    yield f"found   {len(found.segments)} segments"
    judged = report.definition.judged
    for segment in found.segments[:SHOWN]:
        members = [f"q{item.query}" for item in judged if segment.id in item.segments]
        by = ", ".join(members[:5]) + (f" and {len(members) - 5} more" if len(members) > 5 else "")
        what = f"{segment.id} {segment.category} {segment.score:.4f}, {segment.area:,} pixels"
        yield f"        {what}" + ("" if report.classes else f", from {by or 'no one query'}")
    if len(found.segments) > SHOWN:
        yield f"        and {len(found.segments) - SHOWN} more"
    agreement = report.tree["definition"]
    if not agreement["same_segments"]:
        yield "        the plain definition gives other segments: please report it"


def _size(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
