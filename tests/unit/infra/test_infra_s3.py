"""The rights to S3 are those that the code uses, on the prefixes that it uses, for these service accounts only."""

import json
import os
import re
import stat
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT
from support.infra_files import INFRA, files, overlay

# what S3Store calls, and the right that each call needs
RIGHTS = {
    "list_objects_v2": {"s3:ListBucket"},
    "head_object": {"s3:GetObject"},
    "get_object": {"s3:GetObject"},
    "put_object": {"s3:PutObject"},
    "upload_fileobj": {"s3:PutObject", "s3:AbortMultipartUpload"},
    "delete_object": {"s3:DeleteObject"},
}

PLACE = r"[\w/-]+(/\*|\.json)"


def policy(name):
    return yaml.safe_load((INFRA / "s3" / f"{name}.yaml").read_text())


def test_s3_rights_are_those_of_the_calls_that_the_code_makes():
    source = "".join(file.read_text() for file in files("m2f_batch/storage/s3/*.py"))
    called = set(re.findall(r"_client\.([a-z]\w+)\(", source))
    assert called == set(RIGHTS)
    granted = {action for each in policy("write")["Statement"] for action in [*_listed(each["Action"])]}
    assert granted == set().union(*RIGHTS.values())
    read = {action for each in policy("read")["Statement"] for action in [*_listed(each["Action"])]}
    assert read == {"s3:ListBucket", "s3:GetObject"}
    for each in [*policy("read")["Statement"], *policy("write")["Statement"]]:
        assert all("*" not in action for action in _listed(each["Action"]))
        if each["Action"] == "s3:ListBucket":
            prefixes = each["Condition"]["StringLike"]["s3:prefix"]
            assert prefixes and all(re.fullmatch(PLACE, prefix) for prefix in prefixes)
        else:
            assert all(re.fullmatch(r"arn:aws:s3:::my-bucket/" + PLACE, place) for place in _listed(each["Resource"]))


def test_the_presets_read_and_write_there():
    reads, writes = (
        set(policy(name)["Statement"][0]["Condition"]["StringLike"]["s3:prefix"]) for name in ("read", "write")
    )
    for file in files("jobs/*.yaml"):
        tree = yaml.safe_load(file.read_text())
        for section in ("input", "model", "data", "output"):
            for value in tree.get(section, {}).values():
                if isinstance(value, str) and value.startswith("s3://my-bucket/"):
                    key = value.removeprefix("s3://my-bucket/").rstrip("/")
                    allowed = writes if section == "output" else reads
                    assert {key, f"{key}/*"} & allowed, f"{file}: {section}: {value}"


def _listed(value):
    return value if isinstance(value, list) else [value]


def test_the_role_is_taken_by_these_service_accounts_only():
    accounts = [thing for thing in overlay("cluster") if thing["kind"] == "ServiceAccount"]
    (statement,) = policy("trust")["Statement"]
    condition = statement["Condition"]["StringEquals"]
    issuer = statement["Principal"]["Federated"].partition("oidc-provider/")[2]
    assert condition[f"{issuer}:aud"] == "sts.amazonaws.com"
    assert condition[f"{issuer}:sub"] == [
        f"system:serviceaccount:{each['metadata']['namespace']}:{each['metadata']['name']}" for each in accounts
    ]
    roles = {each["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] for each in accounts}
    assert roles == {"arn:aws:iam::111122223333:role/m2f-batch"}


def calls_of(script, tmp_path, **variables):
    """What a script asks of the aws command."""
    fake = tmp_path / "aws"
    record = f'print(json.dumps(sys.argv[1:]), file=open("{tmp_path}/calls", "a"))'
    fake.write_text(f"#!{sys.executable}\nimport json, sys\n{record}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable} | variables
    subprocess.run(["sh", script], cwd=PROJECT, env=environment, check=True, timeout=60)
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def test_the_role_script_hands_the_policies_to_aws(tmp_path):
    calls = calls_of("infra/s3/role.sh", tmp_path)
    verbs = [call[1] for call in calls]
    assert verbs == ["create-role", "put-role-policy", "put-role-policy"]
    assert all(call[:4:2] == ["iam", "--role-name"] and call[3] == "m2f-batch" for call in calls)
    assert [json.loads(call[-1]) for call in calls] == [policy("trust"), policy("read"), policy("write")]


@pytest.mark.parametrize("python", ["/nowhere/python", "without-yaml"])
def test_the_role_script_says_that_it_needs_yaml(python, tmp_path):
    (tmp_path / "without-yaml").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "without-yaml").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHON": python}
    done = subprocess.run(["sh", "infra/s3/role.sh"], cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert f"{python} has no PyYAML" in line and "PYTHON=python3" in line


def test_the_profiles_script_gives_the_right_to_start_machines_to_the_head_only(tmp_path):
    calls = calls_of("infra/ray/profiles.sh", tmp_path)
    made = [call[3] for call in calls if call[1] == "create-instance-profile"]
    launcher = yaml.safe_load((INFRA / "ray" / "aws.yaml").read_text())
    used = [kind["node_config"]["IamInstanceProfile"]["Name"] for kind in launcher["available_node_types"].values()]
    assert set(made) == set(used)
    given = {(call[3], call[5]): json.loads(call[-1]) for call in calls if call[1] == "put-role-policy"}
    assert {role for role, name in given if name == "start-workers"} == {"m2f-batch-head"}
    assert given["m2f-batch-head", "start-workers"] == policy("../ray/start-workers")
    assert given["m2f-batch", "write"] == policy("write")
    assert [json.loads(call[-1]) for call in calls if call[1] == "create-role"] == [policy("trust-ec2")] * 2
    region = launcher["provider"]["region"]
    assert f"arn:aws:ec2:{region}:" in json.dumps(policy("../ray/start-workers"))


def test_the_lifecycle_never_removes_rows_or_state():
    for rule in policy("lifecycle")["Rules"]:
        prefix = rule["Filter"]["Prefix"]
        assert prefix == "labels/_state/log/" or "Days" not in rule.get("Expiration", {})
        assert f"arn:aws:s3:::my-bucket/{prefix}".startswith(policy("write")["Statement"][1]["Resource"][0].rstrip("*"))
