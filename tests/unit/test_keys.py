"""Keys do not come out: of files in a home, in error rows, in run.json, in what the command says, in Ray's metadata."""

import ast
import json

import pytest
from conftest import PROJECT

from m2f_batch.cli import main
from m2f_batch.commands import status
from m2f_batch.datasets.findings import Finding
from m2f_batch.errors import ImageError, RunError, UsageError
from m2f_batch.messages.masking import MASK, redact
from m2f_batch.messages.terminal import printable, say

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def test_keys_of_shared_files_are_masked_wherever_they_stand(tmp_path):
    home = tmp_path / "home"
    for name, text in {
        ".aws/credentials": f"[default]\naws_access_key_id = SHORTKEYID\n aws_secret_access_key={SECRET}\n",
        ".aws/config": "[profile x]\nregion = eu-central-1\naws_session_token = tokenOfTheConfig\n",
        ".cache/huggingface/token": "token-of-the-hub\n",
        ".ray/auth_token": "token-of-the-cluster",
        "elsewhere": "[a]\naws_secret_access_key = anotherSecretKey\n",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    text = f"eu-central-1 SHORTKEYID {SECRET} tokenOfTheConfig token-of-the-hub token-of-the-cluster anotherSecretKey"
    assert redact(text, {}) == text
    masked = redact(text, {"HOME": str(home)}).split()
    assert masked == ["eu-central-1", *[MASK] * 5, "anotherSecretKey"]
    masked = redact(text, {"AWS_SHARED_CREDENTIALS_FILE": str(home / "elsewhere")}).split()
    assert masked[-1] == MASK and SECRET in masked


# (text with {} where the secret stands, a secret of that kind)
ANSWERS = [
    ('{{"Code": "Success", "SecretAccessKey" : "{}", "Expiration": "2026"}}', SECRET),
    ("{{'AccessKeyId': 'x', 'SecretAccessKey': '{}', 'a': 1}}", SECRET),
    ('{{"Token": "{}", "Expiration": "2026"}}', "IQoJb3JpZ2luX2VjEBYaCXVzLWVhc3QtMSJG"),
    ("{{'SessionToken': '{}'}}", "IQoJb3JpZ2luX2VjEBYaCXVzLWVhc3QtMSJG"),
    ('"body": "{{\\"access_token\\":\\"{}\\"}}"', "ya29.a0AfB_byC-0123456789"),
    ("<SecretAccessKey>{}</SecretAccessKey>", SECRET),
    ("DefaultEndpointsProtocol=https;AccountName=me;AccountKey={};EndpointSuffix=core.windows.net", "c2VjcmV0" * 8),
    ("Endpoint=sb://x;SharedAccessKey={}", "c2VjcmV0" * 8),
    ("header: Bearer {}", "0123456789abcdef" * 2),
    ("-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----\nnext", "MIIEowIBAAKCAQEA\nMIIEowIBAAKC"),
    ("-----BEGIN PRIVATE KEY-----\n{}", "MIIEowIBAAKCAQEA and all that follows"),
]


@pytest.mark.parametrize(("place", "secret"), ANSWERS)
def test_keys_in_answers_of_token_services_and_in_files_of_keys(place, secret):
    assert redact(place.format(secret), {}) == place.format(MASK)
    assert redact(place.format(MASK), {}) == place.format(MASK)


@pytest.mark.parametrize(
    "text",
    [
        "bearer tokens neither",
        "Token: expired",
        "'pad_token': 'abcdefghijklmnopqrst'",
        "BEGIN PRIVATE KEY",
        "AccountKey",
    ],
)
def test_words_about_tokens_are_none(text):
    assert redact(text, {}) == text


def test_long_texts_that_begin_like_keys_take_linear_time():
    for piece in ("-----BEGIN PRIVATE KEY-----\n", "'Token': '", "bearer ", "AccountKey=", "<SessionToken>"):
        assert redact(piece * 10_000, {})


def test_the_key_of_a_connection_string_is_known_by_itself():
    told = {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=me;AccountKey={SECRET};EndpointSuffix=x"}
    assert redact(f"signed by {SECRET}", told) == f"signed by {MASK}"
    assert redact(f"given {told['AZURE_STORAGE_CONNECTION_STRING']}", told) == f"given {MASK}"


@pytest.mark.parametrize(("variable", "file"), [("HF_HOME", "token"), ("XDG_CACHE_HOME", "huggingface/token")])
def test_the_token_of_the_hub_is_known_where_its_folder_is(variable, file, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("token-of-the-hub\n")
    assert redact("a token-of-the-hub", {variable: str(tmp_path)}) == f"a {MASK}"


def test_a_terminal_is_told_no_orders():
    text = "two\nlines \x1b]0;title\x07 \x9b31m \u202egnp.exe \u2028 ü 字 \t"
    assert printable(text, {}) == "two\nlines \\x1b]0;title\\x07 \\x9b31m \\u202egnp.exe \\u2028 ü 字 \\t"
    assert printable("a key: AKIAIOSFODNN7EXAMPLE", {}) == "a key: AKIA***"


def test_a_name_with_a_line_break_forges_no_line(capsys):
    say("1 image: a\nverified.png", "2 images: \x1b[2J")
    assert capsys.readouterr().out == "1 image: a\\nverified.png\n2 images: \\x1b[2J\n"


def test_a_finding_is_one_line():
    found = Finding("mask-size", "train.json: a\ndone    nothing to do", "is of another size")
    assert str(found) == "train.json: a\\ndone    nothing to do: is of another size"


def test_whoever_prints_is_known():
    """All others say what they say through ``terminal.say``, or the log."""
    package = PROJECT / "m2f_batch"
    printing = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    own = {"demo/evaluate.py", "commands/submit.py", "submit/interrupts.py"}  # nobody else's names
    clean = {"messages/terminal.py", "cli.py", "messages/events.py"}  # printable, each in its one place
    json_lines = {
        "result.py",
        "models/conversion/child.py",
    }  # ASCII: for a scheduler, and for a parent that says it cleanly
    assert printing == own | clean | json_lines


@pytest.mark.parametrize(("error", "code"), [(UsageError, 2), (RunError, 1)])
def test_a_command_complains_without_keys(error, code, monkeypatch, capsys):
    def fail(options):
        raise error(f"model.uri: hub says https://cdn/x?X-Amz-Signature=0f3c0f3c&a=1 {SECRET} \x1b[2J")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(status, "run", fail)
    assert main(["status", "x"]) == code
    said = capsys.readouterr().err
    assert said == f"m2f-batch status: model.uri: hub says https://cdn/x?X-Amz-Signature={MASK}&a=1 {MASK} \\x1b[2J\n"


def test_a_bug_is_told_without_keys(monkeypatch, capsys):
    import sys

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(status, "run", lambda options: {}[SECRET])
    with pytest.raises(KeyError) as caught:
        main(["status", "x"])
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert "Traceback" in said and f"KeyError: '{MASK}'" in said and SECRET not in said


def test_an_error_row_holds_no_key(monkeypatch):
    from m2f_batch.flow.unit.stages import label_unit
    from m2f_batch.flow.unit.units import PREPARED_SCHEMA, prepared_array, rows_of, unit_row
    from m2f_batch.records import ImageRef

    class Segmenter:
        checked = None

        def label(self, images):
            return []

        def take_seconds(self):
            return {}

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    error = ImageError("fetch", "Unreadable", f"s3://b/x: refused {SECRET} by https://me:pw@host")
    facts = {"unit": "u", "transient": None, "seconds": [], "bytes": 0, "retries": 0}
    unit = unit_row(PREPARED_SCHEMA, facts, prepared_array([ImageRef("s3://b/x", "1")], [error]))
    (row,) = rows_of(label_unit(unit, Segmenter())).to_pylist()
    assert row["error"]["message"] == f"s3://b/x: refused {MASK} by https://{MASK}:{MASK}@host"
    assert row["uri"] == "s3://b/x"


def test_an_explanation_has_the_row_of_the_run(monkeypatch):
    from m2f_batch.explain import rerun
    from m2f_batch.records import ImageRef, error_row

    def fail(ref):
        raise ImageError("fetch", "Unreadable", f"s3://b/x: refused {SECRET} by https://me:pw@host")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(rerun, "fetch", fail)
    found = rerun.Findings(ImageRef("s3://b/x", "1"))
    rerun.read_and_prepare(found, None, None)
    assert found.row()["error"]["message"] == f"s3://b/x: refused {MASK} by https://{MASK}:{MASK}@host"
    error = ImageError("fetch", "Unreadable", f"s3://b/x: refused {SECRET} by https://me:pw@host")
    assert found.row() == error_row(found.ref, error)
    assert found.cause and SECRET not in f"{found.cause} {found.error}"


def test_run_json_holds_no_password_of_an_address():
    from m2f_batch.config.loading import check_config
    from m2f_batch.config.segment import SegmentConfig
    from m2f_batch.flow.attempt.run_info import _config_as_run

    tree = {"input": {"uri": "/a"}, "model": {"uri": "b"}, "output": {"uri": "/c"}}
    config = check_config(SegmentConfig, tree | {"compute": {"address": "ray://me:hunter2@head:10001"}})
    assert _config_as_run(config)["compute"]["address"] == f"ray://{MASK}:{MASK}@head:10001"
    assert "hunter2" not in json.dumps(_config_as_run(config))


def test_a_variable_that_travels_may_hold_no_key():
    from m2f_batch.ray_session.session import _check_no_keys

    _check_no_keys({"AWS_ENDPOINT_URL": "https://minio.example:9000", "AWS_REGION": "eu-central-1"})
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL: .*job metadata") as caught:
        _check_no_keys({"AWS_ENDPOINT_URL": "https://me:hunter22@minio.example:9000"})
    assert "hunter22" not in str(caught.value)


def test_a_local_ray_is_told_of_no_variables_and_so_of_no_keys(monkeypatch):
    from m2f_batch.ray_session.session import _environment
    from m2f_batch.storage import allow

    for name in (allow.OF_MACHINE, allow.OF_DRIVER, "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter22@minio:9000")
    assert _environment(is_local=True) == {}
    with allow.confine(["s3://b"], {}):
        assert _environment(is_local=True) == {allow.OF_DRIVER: '[["storage.allow", ["s3://b"]]]'}
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL: .*job metadata"):
        _environment(is_local=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    assert _environment(is_local=False)["AWS_ENDPOINT_URL"] == "http://minio:9000"
