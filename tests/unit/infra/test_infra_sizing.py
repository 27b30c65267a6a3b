"""The sums of infra/SIZING.md, done again from its own numbers, and each file that it names as a source is there."""

import re

import pytest
import yaml
from support.infra_files import INFRA, cluster_spec, of_ray, overlay, pods

from m2f_batch.storage.driver_memory import BASE, PER_IMAGE, PER_TEXT_BYTE, needed

TEXT = (INFRA / "SIZING.md").read_text()
PLAIN = " ".join(TEXT.split())
SIZES = {"10^5": 1e5, "10^7": 1e7, "10^9": 1e9}
GET, PUT = 0.0004 / 1000, 0.005 / 1000  # dollars
UNITS = {"M": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}


def table(title):
    """Rows of the table whose header begins with ``title``: (first cell: the others)."""
    lines = TEXT.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith(f"| {title} |"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return {row[0]: row[1:] for row in [rows[0], *rows[2:]]}


def row(title, begins):
    (found,) = (cells for name, cells in table(title).items() if name.startswith(begins))
    return found


def number(text):
    """The first number of a text, with its unit.

    >>> number("0.013 M at 32")
    13000.0
    """
    found = re.search(r"([\d,]*\.?\d+)(?: ([MGTP]B?)\b)?", text)
    return float(found[1].replace(",", "")) * UNITS.get(found[2], 1)


def stages():
    return {name: float(value) for name, value in re.findall(r"(\w+) (0\.\d{4})", TEXT.partition("predict")[0])}


RATE = 1 / (stages()["forward"] + stages()["postprocess"])


def test_the_example_is_the_formulas():
    assert number(row("what", "rate of a GPU")[1]) == pytest.approx(RATE, rel=0.01)
    assert number(row("what", "GPU hours")[1]) == pytest.approx(1e6 / RATE / 3600, rel=0.02)
    cores = RATE * (stages()["fetch"] + stages()["decode"]) + 1
    assert number(row("what", "CPU cores per GPU")[1]) == pytest.approx(cores, rel=0.03)
    assert number(row("what", "network into the nodes")[1]) == pytest.approx(RATE * 0.5, rel=0.02)
    decoded = re.findall(r"([\d.]+) MB at (\d+)x(\d+)", row("what", "bytes of a decoded image")[1])
    assert len(decoded) == 2
    for megabytes, height, width in decoded:
        assert float(megabytes) * 1e6 == pytest.approx(3 * int(height) * int(width), rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_a_column_of_what_is_worked_through(size):
    count = SIZES[size]
    column = table("images, N")["images, N"].index(size)

    def cell(begins):
        return row("images, N", begins)[column]

    hours = count / RATE / 3600
    assert number(cell("GPU hours")) == pytest.approx(hours, rel=0.02)
    assert number(cell("GPUs, dollars")) == pytest.approx(hours, rel=0.15)
    gpus = number(cell("machines"))
    wall = float(re.search(r"([\d.]+) (hours|days)", cell("machines"))[1]) * (24 if "days" in cell("machines") else 1)
    assert wall == pytest.approx(hours / gpus, rel=0.2)
    assert number(cell("CPU cores")) == 2 * gpus
    assert number(cell("read")) == pytest.approx(count * 0.5e6)
    assert number(cell("output")) == pytest.approx(count * 4e3)
    requests = re.findall(r"([\d.,]+) M", cell("requests"))
    assert float(requests[0].replace(",", "")) * 1e6 == pytest.approx(count)
    assert float(requests[1].replace(",", "")) * 1e6 == pytest.approx(count * 0.13, rel=0.05)
    dollars = count * (GET + (0.03 + 0.07 + 0.001) * PUT)
    assert number(cell("S3, dollars")) == pytest.approx(dollars, rel=0.15)


def test_rates_by_megapixels():
    lines = (INFRA.parent / "benchmarks" / "results" / "megapixels.md").read_text().splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|")
    seconds = {row[0]: dict(zip(header, row, strict=True)) for row in rows}

    def factor(part, megapixels):
        of_one, of_many = (number(seconds[f"{each:.1f}"][part]) for each in (1, megapixels))
        return round(of_many / of_one, 1)

    decode = {each: factor("decode, to 800 / 1333", each) for each in (1, 3, 12)}
    instance, panoptic, semantic = (
        {each: factor(f"postprocess, {task}", each) for each in (1, 3, 12)}
        for task in ("instance", "panoptic", "semantic")
    )
    assert f"decoding takes {decode[3]} times as long at 3 megapixels as at 1, and {decode[12]} times at 12" in PLAIN
    assert f"of instances takes {instance[3]} and {instance[12]} times as long" in PLAIN
    others = f"(panoptic {panoptic[3]} and {panoptic[12]}, semantic {semantic[3]} and {semantic[12]})"
    assert others in PLAIN
    for megapixels in (1, 3, 12):
        told = [float(cell) for cell in table("megapixels")[str(megapixels)]]
        decoding, after = stages()["decode"] * decode[megapixels], stages()["postprocess"] * instance[megapixels]
        rate = 1 / (stages()["forward"] + after)
        cores = rate * (stages()["fetch"] + decoding) + 1
        expected = [decoding, after, rate, 1e6 / rate / 3600, cores]
        assert told == pytest.approx(expected, rel=0.03), megapixels
    camera, taken = (
        float(each) for each in re.search(r"reckon with ([\d.]+) s, and so with (\d) cores", PLAIN).groups()
    )
    assert taken - 1 < rate * (stages()["fetch"] + camera) + 1 <= taken
    asked, most, beside, each = (
        float(found)
        for found in re.search(
            r"The (\d) cores of a GPU node's pod .* to (\d+) images/s .* (\d) cores beside the replica by ([\d.]+) s",
            PLAIN,
        ).groups()
    )
    gpu = dict(pods(*of_ray(overlay("segment-spot"))))["gpu"]["containers"][0]["resources"]["requests"]
    assert (asked, beside, each) == (float(gpu["cpu"]), asked - 1, stages()["fetch"] + camera)
    assert most == pytest.approx(beside / each, abs=0.5)


def test_money_counts_the_machines_beside_the_gpus():
    head, cpu, together = (
        float(found)
        for found in re.search(
            r"\(m7i\.2xlarge, ([\d.]+) dollars an hour\) .* \(c7i\.4xlarge, ([\d.]+) on .*?H = ([\d.]+)\.", PLAIN
        ).groups()
    )
    assert together == pytest.approx(head + cpu, abs=0.005)
    groups = {each["groupName"]: each for each in cluster_spec(*of_ray(overlay("segment-spot")))["workerGroupSpecs"]}
    assert groups["cpu"]["minReplicas"] == 1
    launched = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())["available_node_types"]
    assert launched["cpu"]["min_workers"] == 0
    few, many, most = (number(cell) for cell in row("images, N", "head and one CPU node"))
    hours = [number(re.search(r"[\d.]+ (?=hours)", cell)[0]) for cell in row("images, N", "machines")[:2]]
    assert [few, many] == pytest.approx([each * together for each in hours], abs=0.6)
    machines = row("images, N", "machines")
    runs, gpus, at_once = (
        int(found)
        for found in re.search(r"(\d+) runs of 10\^7, each on (\d+) GPUs, (\d+) at once", machines[2]).groups()
    )
    assert (runs * 1e7, gpus) == (SIZES["10^9"], number(machines[1]))
    assert gpus * at_once == pytest.approx(number(machines[2]), rel=0.05)
    assert most == runs * many


def test_what_is_edited_for_other_numbers_of_gpus():
    """Every place that is named has the number that is changed there."""
    edited = PLAIN.partition("What to edit for G of them:")[2].partition("CPU nodes:")[0]
    assert [name for name in re.findall(r"`(infra/[^`]+)`", edited) if not (INFRA.parent / name).is_file()] == []
    (gpu, *_) = cluster_spec(*of_ray(overlay("segment-spot")))["workerGroupSpecs"]
    preset = yaml.safe_load((INFRA.parent / "jobs" / "segment-spot.yaml").read_text())
    launcher = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())
    pools = [*yaml.safe_load_all((INFRA / "kubernetes" / "karpenter.yaml").read_text())]
    limits = next(each["spec"]["limits"] for each in pools if each["metadata"]["name"] == "m2f-batch-gpu")
    queue = [*yaml.safe_load_all((INFRA / "kubernetes" / "kueue.yaml").read_text())][1]
    (quota,) = (
        each["nominalQuota"]
        for each in queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
        if each["name"] == "nvidia.com/gpu"
    )
    kinds = launcher["available_node_types"]
    numbers = [
        gpu["maxReplicas"],
        preset["compute"]["actors"][1],
        kinds["gpu"]["max_workers"],
        limits["nvidia.com/gpu"],
    ]
    assert {*numbers, quota} == {8} and launcher["max_workers"] >= 8
    for words in ("maxReplicas", "compute.actors: [1, G]", "max_workers", "limits"):
        assert words in edited


def test_what_crosses_zones():
    (crossing,) = re.findall(
        r"N x (\d+)/(\d+) x 2/3 x ([\d.]+) MB x ([\d.]+) dollars per GB "
        r"= (\d+) dollars at 10\^7 and \S+, (\d+) at 384x384",
        PLAIN,
    )
    cpu, all_cores, megabytes, price, large, small = (float(each) for each in crossing)
    nodes, each, alone = (
        float(found)
        for found in re.search(r"Of (\d+) GPU nodes with (\d+) free cores each and a CPU node of (\d+)", PLAIN).groups()
    )
    assert (cpu, all_cores) == (alone, nodes * each + alone)
    images = 1e7 * cpu / all_cores * 2 / 3
    assert large == pytest.approx(images * megabytes / 1000 * price, rel=0.02)
    assert small == pytest.approx(images * 3 * 384 * 384 / 1e9 * price, rel=0.03)
    by_name = dict(pods(*of_ray(overlay("segment-spot"))))
    asked = {name: int(by_name[name]["containers"][0]["resources"]["requests"]["cpu"]) for name in ("gpu", "cpu")}
    assert (each, alone) == (asked["gpu"] - 1, asked["cpu"])  # a replica has one of its node
    assert nodes == next(
        group["maxReplicas"]
        for group in cluster_spec(*of_ray(overlay("segment-spot")))["workerGroupSpecs"]
        if group["groupName"] == "gpu"
    )


def test_what_a_head_costs_by_the_month():
    found = re.search(
        r"m7i\.2xlarge at ([\d.]+) dollars an hour is (\d+) a month of (\d+) hours, "
        r".* m7i\.xlarge at ([\d.]+) is (\d+)",
        PLAIN,
    )
    large, by_month, hours, small, by_month_too = (float(each) for each in found.groups())
    assert by_month == pytest.approx(large * hours, abs=1) and by_month_too == pytest.approx(small * hours, abs=1)
    launched = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())["available_node_types"]
    assert launched["head"]["node_config"]["InstanceType"] == "m7i.xlarge"
    idle = cluster_spec(*of_ray(overlay("cluster")))["autoscalerOptions"]["idleTimeoutSeconds"]
    assert f"`idleTimeoutSeconds` ({idle})" in PLAIN and "8 GPUs x 2 minutes are a quarter of a GPU hour" in PLAIN


def test_every_source_is_there():
    named = re.findall(r"\]\((\.\./[^)#]+)\)", TEXT)
    assert len(named) > 6
    assert [name for name in named if not (INFRA / name).exists()] == []


def test_every_line_of_the_arithmetic_says_where_it_is_from():
    rows = table("what")
    assert [name for name, cells in rows.items() if not cells[-1]] == []


def test_memory_by_its_formulas():
    first, unit, many, further = (
        float(found.replace(",", ""))
        for found in re.search(
            r"(\d+) MiB \+ (\d+) KiB for each of the first ([\d,]+) units \+ ([\d.]+) KiB for each other", PLAIN
        ).groups()
    )

    def gcs(units):
        return (first + (unit * min(units, many) + further * max(0, units - many)) / 1024) / 1024  # GiB

    command = row("what", "memory of the command")[0]
    base, each, of_text, text = (
        float(found)
        for found in re.fullmatch(
            r"(\d+) GiB \+ (\d+) B x N \+ ([\d.]+) B for each byte of uris and versions, some (\d+) an image", command
        ).groups()
    )
    assert (base * 2**30, each, of_text) == (BASE, PER_IMAGE, PER_TEXT_BYTE)
    told = row("images, N", "the command's memory")
    for cell, count in zip(told, SIZES.values(), strict=True):
        by_command, of_gcs = (float(found) for found in re.findall(r"[\d.]+", cell)[:2])
        expected = needed(int(count), int(text * count)) / 2**30
        assert by_command == pytest.approx(expected, rel=0.05)
        assert of_gcs == pytest.approx(gcs(count / 32), rel=0.05)
    head = number(
        dict(pods(*of_ray(overlay("segment-spot"))))["head"]["containers"][0]["resources"]["requests"]["memory"]
    )
    (held, stored, refused) = (
        float(found) * 1e7
        for found in re.search(
            r"The most that they hold by these formulas is ([\d.]+) x 10\^7 .* At ([\d.]+) x 10\^7 .* above "
            r"([\d.]+) x 10\^7, is refused",
            PLAIN,
        ).groups()
    )
    assert needed(int(held), int(text * held)) / 2**30 + gcs(held / 32) + 1 == pytest.approx(head, rel=0.02)
    assert stored * 2043 * 2**20 / 1e7 == pytest.approx(0.3 * head * 2**30, rel=0.02)  # results/planning.md
    assert needed(int(refused), int(text * refused)) == pytest.approx(head * 2**30, rel=0.02)
    (fewer,) = re.findall(r"\(([\d.]+) at 256 per unit\)", told[1])
    assert float(fewer) == pytest.approx(gcs(1e7 / 256), rel=0.05)
    assert gcs(31_250) * 1024 == pytest.approx(358, rel=0.02)  # measured: benchmarks/results/scale.md
    node = float(number(row("what", "memory of a node, per replica")[1])) / 1e9
    assert node == pytest.approx(0.9 + 2 * 0.86 + 13 * 100e6 / 1e9, rel=0.02)


def test_what_a_kill_costs_is_what_the_pipeline_gives_away():
    from m2f_batch.flow.pipeline import UNITS_AT_ONCE
    from m2f_batch.flow.unit.pieces import UNITS_PER_PIECE

    formula, example, _ = row("what", "a kill costs")
    fetched, cpu, cuda = (
        int(found) for found in re.search(r"(\d+) units at most.* the (\d+) units.*, (\d+) on", formula).groups()
    )
    assert (fetched, {"cpu": cpu, "cuda": cuda}) == (UNITS_PER_PIECE, UNITS_AT_ONCE)
    again, labeled, unit = (int(found) for found in re.findall(r"\d+", example))
    assert (again, labeled) == (fetched * unit, cuda * unit)
