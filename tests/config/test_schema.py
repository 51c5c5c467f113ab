import json

import yaml

from flatmeter.config.fields import BN_MODES, DESCRIPTIONS, DTYPES, FORMATS, PROGRESS
from flatmeter.config.schema import Settings
from flatmeter.config.starter import starter


def test_every_setting_is_described_once():
    assert set(DESCRIPTIONS) == set(Settings.model_fields)


def test_choices_of_the_flags_are_those_of_the_schema():
    properties = Settings.model_json_schema()["properties"]
    assert tuple(properties["format"]["enum"]) == FORMATS
    assert tuple(properties["dtype"]["enum"]) == DTYPES
    assert tuple(properties["progress"]["enum"]) == PROGRESS
    assert tuple(properties["bn"]["anyOf"][0]["enum"]) == BN_MODES


def test_schema_is_json_and_closed():
    schema = json.loads(json.dumps(Settings.model_json_schema()))
    assert schema["additionalProperties"] is False


def test_starter_is_empty_and_valid_once_uncommented():
    text = starter()
    assert yaml.safe_load(text) is None
    taken = "\n".join(
        line.removeprefix("#")
        for line in text.splitlines()
        if line.startswith("#") and not line.startswith("# ")
    )
    values = yaml.safe_load(taken)
    assert set(values) == set(Settings.model_fields)
    settings = Settings(**values)
    assert settings.samples == 4096
    assert settings.model_args == {"num_classes": 10}
