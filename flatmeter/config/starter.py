"""The commented file that ``flatmeter config init`` writes."""

from __future__ import annotations

import json
from typing import Any

from flatmeter.config.schema import Settings

_HEAD = """\
# Settings of flatmeter for the checkpoints of this project. The nearest flatmeter.yaml, upwards
# from the current folder, is read; -c FILE, FLATMETER_* variables and flags override it.
# Take the # off the lines that you need; what is shown is the default.
"""

_EXAMPLES: dict[str, str] = {
    "model": "torchvision:resnet18",
    "model_args": "{num_classes: 10}",
    "data": "torchvision:CIFAR10@data",
    "loss": "cross_entropy",
    "options": "{minimum_sharpness: {curvature: ggn}}",
    "measures": "[all]",
}


def starter() -> str:
    """Every setting with its meaning and default, all commented out."""
    lines = [_HEAD]
    for name, field in Settings.model_fields.items():
        default = _EXAMPLES.get(name) or _yaml(field.get_default(call_default_factory=True))
        lines.append(f"# {field.description}\n#{name}: {default}\n")
    return "\n".join(lines)


def _yaml(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
