"""Each file of infra/ says the command that uses it; names agree between files, code and manifests; the image."""

import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT
from support.docker_steps import made_by, needed_by
from support.infra_files import (
    INFRA,
    OVERLAYS,
    cluster_spec,
    commands,
    files,
    leading_comment,
    locked,
    of_ray,
    overlay,
    pods,
    rendered,
)

from m2f_batch.config.finetune import FinetuneConfig
from m2f_batch.config.loading import load_config
from m2f_batch.config.segment import SegmentConfig
from m2f_batch.flow.watch.metrics import COUNTERS, GAUGES, PREFIX
from m2f_batch.version import VERSION

COMMAND = re.compile(
    r"^\s*(?:\w+=\S+ )*(?:sh infra/|kubectl |docker |prometheus |promtool |m2f-batch |ray job submit |python -m "
    r"|CC=/opt/|jq |crontab |\.venv/bin/)",
    re.MULTILINE,
)
TOLD = [
    file
    for file in files("infra/**/*", "jobs/**/*.yaml")
    if file.name != "LICENSE"
    and file.suffix in ("", ".sh", ".yaml", ".yml", ".json", ".dockerignore")
    and "__pycache__" not in file.parts
]
METRICS = {f"ray_{PREFIX}{name}": {"run", *labels} for name, (_, labels) in [*COUNTERS.items(), *GAUGES.items()]}
POD = {"cluster", "pod"}  # what a scrape adds
# Ray's dashboard/consts.py, kube-state-metrics' docs/metrics, KubeRay's controllers/ray/metrics
OTHERS = {
    "ray_node_gpus_utilization": {"ip", "GpuDeviceName", "GpuIndex"},
    "kube_cronjob_status_last_successful_time": {"namespace", "cronjob"},
    "kube_cronjob_created": {"namespace", "cronjob"},
    "kube_cronjob_spec_suspend": {"namespace", "cronjob"},
    "kuberay_job_deployment_status": {"namespace", "name", "uid", "deployment_status"},
}
ALERTS = ("prometheus/alerts.yml", "prometheus/alerts-machines.yml")
CONFIG_OF = {"segment": SegmentConfig, "finetune": FinetuneConfig}


@pytest.mark.parametrize("file", TOLD, ids=lambda file: str(file.relative_to(PROJECT)))
def test_it_begins_with_the_command_that_uses_it(file):
    text = file.read_text()
    # JSON has no comments; Grafana shows the description of a dashboard
    comment = json.loads(text)["description"] if file.suffix == ".json" else leading_comment(text)
    assert COMMAND.search(comment), f"{file}: {comment}"
    for path in re.findall(r"(?<!/)(?:infra|jobs)/[\w./-]+[\w]", comment):
        assert (PROJECT / path).exists(), f"{file} names {path}"


def test_files_are_short():
    assert {
        file.name: len(file.read_text().splitlines()) for file in TOLD if len(file.read_text().splitlines()) > 200
    } == {}


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_config_that_a_manifest_names_is_mounted_and_loads(name):
    objects = overlay(name)
    (presets,) = (thing for thing in objects if thing["metadata"]["name"] == "m2f-batch-jobs")
    for command in [command for thing in objects for command in commands(thing)]:
        words = shlex.split(command)
        job = next(kind for kind in CONFIG_OF if f"/app/jobs/{kind}.py" in words or kind in words)
        assert f"/app/jobs/{job}.py" not in words or (PROJECT / "jobs" / f"{job}.py").is_file()
        folder, _, file = words[words.index("--config") + 1].rpartition("/")
        overrides = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        assert file in presets["data"]
        config = load_config(CONFIG_OF[job], file=str(PROJECT / "jobs" / file), overrides=overrides)
        assert config.output.uri
        for thing in objects:
            for pod, spec in pods(thing):
                mounts = {m["name"]: m["mountPath"] for each in spec["containers"] for m in each["volumeMounts"]}
                # where the driver runs, and where a command reads its config
                assert pod == "submitter" or mounts["jobs"] == folder


def test_presets_ask_for_what_the_groups_have():
    for name, file in (
        ("segment-spot", "segment-spot"),
        ("nightly-raycronjob", "nightly"),
        ("finetune-eight", "finetune-eight"),
    ):
        (thing,) = of_ray(overlay(name))
        group = cluster_spec(thing)["workerGroupSpecs"][0]
        (container,) = group["template"]["spec"]["containers"]
        gpus = int(container["resources"]["limits"]["nvidia.com/gpu"]) * group["maxReplicas"]
        preset = yaml.safe_load((PROJECT / "jobs" / f"{file}.yaml").read_text())
        least, most = preset["train"]["workers"] if "train" in preset else preset["compute"]["actors"]
        assert most == gpus and preset["compute"]["device"] == "cuda"
        # KubeRay waits for the least of a training; a run asks for GPUs itself
        assert group["replicas"] == group["minReplicas"] == ("train" in preset and least)


def test_a_training_holds_no_gpus_that_wait_for_others():
    """Elastic, with a bound on the wait for two; the gang of Kueue is a comment, whose patches still apply."""
    (thing,) = of_ray(overlay("finetune-eight"))
    spec = cluster_spec(thing)
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [2]
    assert spec["enableInTreeAutoscaling"] is True  # else nobody asks for the other six
    assert thing["spec"]["preRunningDeadlineSeconds"] <= 3600
    comment = leading_comment((INFRA / "kubernetes/overlays/finetune-eight/finetune.yaml").read_text())
    label, fixed = (yaml.safe_load(line)[0] for line in re.findall(r"(?m)^- \{op: .*", comment))
    assert label == {
        "op": "add",
        "path": "/metadata/labels",
        "value": {"kueue.x-k8s.io/queue-name": "gpus"},
    }
    assert "labels" not in thing["metadata"]  # "add" would replace them
    assert fixed["path"] == "/spec/rayClusterSpec/enableInTreeAutoscaling" and fixed["value"] is False


@pytest.mark.parametrize(
    "script", [file for file in TOLD if file.read_text().startswith("#!/bin/sh")], ids=lambda file: file.name
)
def test_scripts_parse(script):
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=120)


# ---- metrics


def expressions(file):
    """(where, PromQL) of a dashboard or a file of rules."""
    if file.suffix == ".json":
        panels = json.loads(file.read_text())["panels"]
        return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    groups = yaml.safe_load(file.read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("file", ["grafana/dashboard.json", *ALERTS])
def test_only_what_a_run_emits_is_asked_for(file):
    found = expressions(INFRA / file)
    assert found
    known = METRICS | OTHERS
    for where, expression in found:
        selectors = re.findall(r"((?:ray|kube|kuberay)_\w+)\s*(?:\{([^}]*)\})?", expression)
        assert selectors, where
        for name, matchers in selectors:
            assert name in known, f"{where}: {name}"
            assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name], where
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
            emitted = POD.union(*(known[name] for name, _ in selectors))
            assert set(re.findall(r"\w+", labels)) <= emitted, where


def test_the_dashboard_shows_every_metric_and_needs_no_variable_but_run():
    queries = [query for _, query in expressions(INFRA / "grafana" / "dashboard.json")]
    assert all(name in " ".join(queries) for name in METRICS)
    assert {word for query in queries for word in re.findall(r"\$\w+", query)} == {"$run"}


def test_alerts_are_of_the_jobs_that_are_here():
    nightly = yaml.safe_load((PROJECT / "jobs" / "nightly.yaml").read_text())["output"]["uri"]
    ((_, expression),) = expressions(INFRA / "prometheus" / "alerts-machines.yml")
    assert set(re.findall(r'run="([^"]*)"', expression)) == {nightly}
    asked = " ".join(text for _, text in expressions(INFRA / "prometheus" / "alerts.yml"))
    (cronjob,) = (thing["metadata"] for thing in overlay("nightly") if thing["kind"] == "CronJob")
    assert set(re.findall(r'cronjob="([^"]*)"', asked)) == {cronjob["name"]}
    assert set(re.findall(r'namespace="([^"]*)"', asked)) == {cronjob["namespace"]}
    (ray_cron_job,) = of_ray(overlay("nightly-raycronjob"))
    # KubeRay names its RayJobs after it, and a hash
    assert set(re.findall(r'name=~"([^"]*)"', asked)) == {f"{ray_cron_job['metadata']['name']}.*"}


def test_rays_own_gauge_is_there():
    from ray.dashboard.consts import GPU_TAG_KEYS

    assert OTHERS["ray_node_gpus_utilization"] < set(GPU_TAG_KEYS)


def test_the_operators_rules_are_the_plain_ones_and_its_monitor_finds_the_pods():
    monitor, rule = rendered("infra/prometheus/operator")
    assert (monitor["kind"], rule["kind"]) == ("PodMonitor", "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text())
    assert {thing["metadata"]["namespace"] for thing in (monitor, rule)} == {"monitoring"}
    (cluster,) = of_ray(overlay("segment-spot"))
    assert monitor["spec"]["namespaceSelector"]["matchNames"] == [cluster["metadata"]["namespace"]]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    head = dict(pods(cluster))["head"]
    ports = {port["name"]: port["containerPort"] for each in head["containers"] for port in each.get("ports", ())}
    policies = {
        thing["metadata"]["name"]: thing for thing in overlay("segment-spot") if thing["kind"] == "NetworkPolicy"
    }
    (ingress,) = policies["m2f-batch-metrics"]["spec"]["ingress"]
    assert {"protocol": "TCP", "port": ports[endpoint["port"]]} in ingress["ports"]
    selected = policies["m2f-batch-metrics"]["spec"]["podSelector"]
    assert monitor["spec"]["selector"] == selected


# ---- the image


def instructions():
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", (INFRA / "Dockerfile").read_text()))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_the_image_is_pinned_locked_and_without_root():
    lines = instructions()
    stages = [rest.split() for word, rest in lines if word == "FROM"]
    names = {stage[2] for stage in stages if len(stage) == 3}
    assert all(stage[0] in {"${BASE}", *names} for stage in stages)
    (base,) = (rest for word, rest in lines if word == "ARG" and rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=debian:\d+\.\d+-slim", base)  # a release, not what it is called today
    runs = [rest for word, rest in lines if word == "RUN"]
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    of_wheels = [install for install in installs if "/wheels/*.whl" in install]
    # uv, what is needed, three parts, what builds our wheels, what the client needs, its part
    assert (len(installs), len(of_wheels)) == (10, 2)
    assert all("--no-deps" in install for install in of_wheels)
    for install in set(installs) - set(of_wheels):
        assert re.search("--(verify|require)-hashes ", install), install
        assert re.search("--no-build |--only-binary :all: ", install), install
        assert re.search(r"\$\{INDEX:\+--(default-index|index-url) \"\$INDEX\"\}", install), install
    for run in runs:
        if "apt-get install" in run:
            assert "--no-install-recommends" in run and "rm -rf /var/lib/apt/lists" in run
    for name in ("", "client"):
        last = steps_of(name)
        assert not re.search(
            r"\b(gcc|g\+\+|clang|build-essential|python3-dev|python3-pip)\b", " ".join(rest for _, rest in last)
        )
        assert [rest for word, rest in last if word == "USER"] == ["10001:10001"]
    assert not {"ADD", "VOLUME"} & {word for word, _ in lines}
    users = {
        pod["securityContext"]["runAsUser"] for name in OVERLAYS for thing in overlay(name) for _, pod in pods(thing)
    }
    assert users == {10001}


def steps_of(stage):
    """The steps of one stage of the Dockerfile; the last one has no name."""
    lines = instructions()
    starts = [index for index, (word, _) in enumerate(lines) if word == "FROM"]
    (steps,) = (
        lines[at + 1 : end]
        for at, end in zip(starts, [*starts[1:], len(lines)], strict=True)
        if lines[at][1].partition(" AS ")[2] == stage
    )
    return steps


def test_what_changes_apart_is_a_layer_apart():
    """Stages see no more than their own part of the lock, so that a line elsewhere builds and sends none of theirs."""
    parts = ("nvidia", "torch", "others")
    for part in parts:
        copies = [rest for word, rest in steps_of(part) if word == "COPY"]
        assert copies[0] == f"--from=parts /parts/{part}.txt ./"
        assert copies[1:] in ([], ["infra/image ./infra/image"])
        assert "LOCK" not in str(steps_of(part)) and "pyproject" not in str(steps_of(part))
    last = [rest for word, rest in steps_of("") if word == "COPY"]
    assert last == [
        *(f"--from={part} /opt/m2f-batch /opt/m2f-batch" for part in parts),
        "--from=code /opt/code /opt/code",
        "jobs /app/jobs",
    ]


def test_neither_image_is_made_of_the_other():
    """By tests/support/docker_steps.py, which makes what a target needs, as docker does."""
    whole, client = needed_by(""), needed_by("client")
    assert not {name for name in whole if name.startswith("client")}
    assert client - whole == {"client", "client-code", "client-packages", "client-parts"}
    assert not {"nvidia", "torch", "others", "code"} & client
    assert [rest for word, rest in steps_of("client") if word == "COPY"] == [
        "--from=client-packages /opt/m2f-batch /opt/m2f-batch",
        "--from=client-code /opt/code /opt/code",
    ]


def test_a_part_whose_lines_are_the_same_is_not_built_again(tmp_path):
    """By tests/support/docker_steps.py, which stands for docker here."""
    for layer, lines in {"old": "torch==1", "same": "torch==1", "new": "torch==2"}.items():
        (tmp_path / layer / "parts").mkdir(parents=True)
        (tmp_path / layer / "parts" / "torch.txt").write_text(lines)
    old, same, new = (made_by(tmp_path, (layer, "base"), "/parts/torch.txt") for layer in ("old", "same", "new"))
    assert old == same != new
    assert made_by(tmp_path, ("old", "base"), "/parts") == "old"


def test_an_index_and_an_authority_stay_out_of_the_image():
    assert {"INDEX", "AUTHORITY"} <= {rest for word, rest in instructions() if word == "ARG"}
    assert not re.search("INDEX|AUTHORITY", str(steps_of("") + steps_of("client")))


def split_lock(tmp_path, chosen):
    """What infra/image/parts.py makes of the lock: (the process, the text of each part)."""
    (tmp_path / "chosen").write_text(chosen)
    lock = PROJECT / "requirements.lock"
    command = [sys.executable, INFRA / "image" / "parts.py", lock, tmp_path / "chosen", tmp_path / "parts"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done, {file.stem: file.read_text() for file in sorted(tmp_path.glob("parts/*.txt"))}


def test_the_parts_are_lines_of_the_lock_with_their_hashes(tmp_path):
    names = ("torch", "triton", "nvidia-cublas", "cuda-bindings", "pillow")
    versions = {name: locked(name) for name in names}
    chosen = "Would install 5 packages\n" + "".join(f" + {name}=={version}\n" for name, version in versions.items())
    done, parts = split_lock(tmp_path, chosen)
    assert done.returncode == 0, done.stderr
    found = {part: re.findall(r"(?m)^([\w-]+)==", text) for part, text in parts.items()}
    assert found == {"nvidia": ["cuda-bindings", "nvidia-cublas"], "others": ["pillow"], "torch": ["torch", "triton"]}
    lock = (PROJECT / "requirements.lock").read_text()
    for text in parts.values():
        assert all(block in lock and "--hash=sha256:" in block for block in re.findall(r"(?m)^\w.*\n(?: .*\n)*", text))


@pytest.mark.parametrize("chosen", [" + pillow==1.0\n", " + leftpad==1.3.0\n", "error: no such option\n"])
def test_what_the_lock_does_not_have_fails_the_build(tmp_path, chosen):
    done, parts = split_lock(tmp_path, chosen)
    assert done.returncode == 1 and "not in the lock: " in done.stderr and not parts


def test_uv_is_pinned_by_hash_in_one_place():
    text = (INFRA / "image" / "uv.txt").read_text()
    assert len(re.findall(r"(?m)^\w", text)) == 1 and re.search(r"(?m)^uv==\d+\.\d+\.\d+ \\$", text)
    assert text.count("--hash=sha256:") > 10  # of each platform
    makefile = (PROJECT / "Makefile").read_text()
    assert re.findall(r"pip install.*", makefile)[0].endswith("--require-hashes --requirement infra/image/uv.txt")
    assert not re.search(r"uv==", makefile + (INFRA / "Dockerfile").read_text())


def test_images_are_named_by_the_version():
    texts = "".join(file.read_text() for file in [*TOLD, *files("README.md", "docs/**/*.md", "infra/*.md")])
    named = re.findall(r"m2f-batch:(\S+?)-(?:cuda|cpu|client)\b|newTag: (\S+?)-(?:cuda|cpu|client)\b", texts)
    assert len(named) > 10 and {image or tag for image, tag in named} == {VERSION}


def test_nobody_is_told_to_compile_where_there_is_no_compiler():
    from m2f_batch.flow.watch.busy import faster_model

    told = [faster_model("cuda"), faster_model("cpu"), (INFRA / "SIZING.md").read_text()]
    assert not [text for text in told if "model.compile" in text]


def test_what_the_image_is_made_of_is_there_and_sent():
    kept = [line[1:] for line in (INFRA / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.replace("${LOCK}", "requirements.lock").split()[:-1]:
                assert (PROJECT / source).exists()
                sent = {place for pattern in kept for place in PROJECT.glob(pattern)}
                assert sent & {PROJECT / source, (PROJECT / source).parent}, source
    for device in ("cpu", "cuda"):
        assert (INFRA / "image" / f"{device}.sh").is_file()


def test_the_images_compiler_knows_one_file(tmp_path):
    """Triton's call, as triton.runtime.build makes it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "cuda_utils.so").write_bytes(b"compiled before")
    tool = tmp_path / "bin" / "triton-cc"
    tool.write_bytes((INFRA / "image" / "triton-cc").read_bytes())
    call = ["sh", str(tool), "/x/triton/backends/nvidia/driver.c", "-O3", "-shared", "-o", f"{tmp_path}/out.so", "-I/x"]
    subprocess.run(call, check=True, timeout=120)
    assert (tmp_path / "out.so").read_bytes() == b"compiled before"
    other = subprocess.run(
        ["sh", str(tool), "main.c", "-o", f"{tmp_path}/main"], capture_output=True, text=True, timeout=120
    )
    assert other.returncode == 1 and "model.compile" in other.stderr
    assert not (tmp_path / "main").exists()
