"""The JSON Schema of a settings file, the options of every measure included."""

from __future__ import annotations

import warnings
from typing import Any

from pydantic import ConfigDict, Field, create_model

from flatmeter.config.fields import DESCRIPTIONS
from flatmeter.config.schema import Settings
from flatmeter.measures.registry import available, usable


def full_schema() -> dict[str, Any]:
    """JSON Schema from the same models that validate a run."""
    kinds = available()
    fields: dict[str, Any] = {
        name: (kinds[name].Settings, Field({}, description=kinds[name].title))
        for name in usable(kinds, warnings.warn)
    }
    options = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)
    field: Any = Field({}, description=DESCRIPTIONS["options"])
    whole = create_model("FlatmeterSettings", __base__=Settings, options=(options, field))
    schema = whole.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
