"""JSON of others: a value, or one message that names the text."""

import codecs

import pytest

from m2f_batch.errors import UsageError
from m2f_batch.storage.json_text import json_object_or_none, parse_json, read_json_object


@pytest.mark.parametrize(
    "data",
    [
        '{"a": "é"}',
        '{"a": "é"}'.encode(),
        codecs.BOM_UTF8 + '{"a": "é"}'.encode(),
        '{"a": "é"}'.encode("utf-16"),
        b'{"a": 1, "a": "\xc3\xa9"}',  # of a name that comes twice the last one counts, as everywhere
    ],
)
def test_an_object_in_any_encoding_of_json(data):
    assert read_json_object(data, "x") == parse_json(data, "x") == json_object_or_none(data) == {"a": "é"}


@pytest.mark.parametrize(
    "data",
    [
        *("", "{", b"{not json", b"\xff\xfe", b'{"a": "\xff"}', "[" * 200_000, '{"a":' * 200_000),
        "\ufeff{}",  # of a text that somebody decoded without a look at its mark
        "1" * 10_000,
    ],
)
def test_what_is_no_json_is_one_mistake_of_the_field(data):
    for read in (parse_json, read_json_object):
        with pytest.raises(UsageError, match=r"^model\.uri: config\.json of m is not valid JSON: ") as caught:
            read(data, "config.json of m", field="model.uri")
        assert caught.value.field == "model.uri" and "\n" not in str(caught.value)
    assert json_object_or_none(data) is None


@pytest.mark.parametrize("data", ["[]", '"mask2former"', "null", "1.5", "NaN"])
def test_another_value_is_no_object(data):
    with pytest.raises(UsageError, match=r"^'a\.json' does not hold a JSON object$"):
        read_json_object(data, "'a.json'")
    assert json_object_or_none(data) is None
    parse_json(data, "'a.json'")
