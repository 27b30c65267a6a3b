"""Keys do not come out: of files in a home, in error rows, in run.json, in what the command says, in Ray's metadata."""

import json

import pytest

from m2f_batch.cli import main
from m2f_batch.errors import ImageError, RunError, UsageError
from m2f_batch.flow.redact import MASK, printable, redact

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


def test_a_terminal_is_told_no_orders():
    text = "two\nlines \x1b]0;title\x07 \x9b31m \u202egnp.exe \u2028 ü 字 \t"
    assert printable(text, {}) == "two\nlines \\x1b]0;title\\x07 \\x9b31m \\u202egnp.exe \\u2028 ü 字 \\t"
    assert printable("a key: AKIAIOSFODNN7EXAMPLE", {}) == "a key: AKIA***"


@pytest.mark.parametrize(("error", "code"), [(UsageError, 2), (RunError, 1)])
def test_a_command_complains_without_keys(error, code, monkeypatch, capsys):
    def fail(options):
        raise error(f"model.uri: hub says https://cdn/x?X-Amz-Signature=0f3c0f3c&a=1 {SECRET} \x1b[2J")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setitem(__import__("m2f_batch.cli").cli.RUN, "status", fail)
    assert main(["status", "x"]) == code
    said = capsys.readouterr().err
    assert said == f"m2f-batch status: model.uri: hub says https://cdn/x?X-Amz-Signature={MASK}&a=1 {MASK} \\x1b[2J\n"


def test_a_bug_is_told_without_keys(monkeypatch, capsys):
    import sys

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setitem(__import__("m2f_batch.cli").cli.RUN, "status", lambda options: {}[SECRET])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # put back afterwards
    with pytest.raises(KeyError) as caught:
        main(["status", "x"])
    sys.excepthook(caught.type, caught.value, caught.tb)
    said = capsys.readouterr().err
    assert "Traceback" in said and f"KeyError: '{MASK}'" in said and SECRET not in said


def test_an_error_row_holds_no_key(monkeypatch):
    from m2f_batch.flow.stages import label_unit
    from m2f_batch.flow.units import PREPARED_SCHEMA, prepared_array, rows_of, unit_row
    from m2f_batch.records import ImageRef

    class Segmenter:
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


def test_run_json_holds_no_password_of_an_address():
    from m2f_batch.config import SegmentConfig
    from m2f_batch.config_loading import check_config
    from m2f_batch.flow.run_info import _config_as_run

    tree = {"input": {"uri": "/a"}, "model": {"uri": "b"}, "output": {"uri": "/c"}}
    config = check_config(SegmentConfig, tree | {"compute": {"address": "ray://me:hunter2@head:10001"}})
    assert _config_as_run(config)["compute"]["address"] == f"ray://{MASK}:{MASK}@head:10001"
    assert "hunter2" not in json.dumps(_config_as_run(config))


def test_a_variable_that_travels_may_hold_no_key():
    from m2f_batch.flow.cluster import _check_no_keys

    _check_no_keys({"AWS_ENDPOINT_URL": "https://minio.example:9000", "AWS_REGION": "eu-central-1"})
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL: .*job metadata") as caught:
        _check_no_keys({"AWS_ENDPOINT_URL": "https://me:hunter22@minio.example:9000"})
    assert "hunter22" not in str(caught.value)
