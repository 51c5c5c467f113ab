"""The settings of a run, validated: one model for YAML, environment, flags and JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from flatmeter.config.device import PATTERN, check_device
from flatmeter.config.duration import parse_duration
from flatmeter.config.fields import DESCRIPTIONS
from flatmeter.config.shard import PATTERN as SHARDS
from flatmeter.config.shard import check_shard
from flatmeter.strategy import Strategy


def _listed(value: Any) -> Any:
    """``a,b`` as ``[a, b]``."""
    return [v.strip() for v in value.split(",") if v.strip()] if isinstance(value, str) else value


def _flattened(value: Any) -> Any:
    """``[a,b, c]`` as ``[a, b, c]``: a flag given several times may list several each time."""
    value = _listed(value)
    if not isinstance(value, (list, tuple)):
        return value
    return [name for item in value for name in (_listed(item) if isinstance(item, str) else [item])]


def _about(name: str, default: Any, **constraints: Any) -> Any:
    return Field(default, description=DESCRIPTIONS[name], **constraints)


Names = Annotated[tuple[str, ...], BeforeValidator(_flattened)]
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Seconds = Annotated[float, BeforeValidator(parse_duration)]
Device = Annotated[str, AfterValidator(check_device), Field(json_schema_extra={"pattern": PATTERN})]
Part = Annotated[str, AfterValidator(check_shard), Field(json_schema_extra={"pattern": SHARDS})]
Precision = Annotated[int, Field(ge=1, le=17)]


class Settings(BaseModel):
    """Everything that ``flatmeter measure`` can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: str | None = _about("model", None)
    model_args: dict[str, Any] = _about("model_args", {})
    key: str | None = _about("key", None)
    ema: bool = _about("ema", False)
    data: str | None = _about("data", None)
    samples: Annotated[int, Field(ge=1)] | Literal["all"] = _about("samples", 4096)
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = _about("batch_size", "auto")
    loss: str | dict[str, Any] | None = _about("loss", None)
    weight_decay: float = _about("weight_decay", 0.0, ge=0)
    lr: float | None = _about("lr", None, gt=0)
    bn: Literal["eval", "batch"] | None = _about("bn", None)
    bn_batch: int = _about("bn_batch", 256, ge=2)
    measures: Names = _about("measures", ("all",), min_length=1)
    options: dict[str, dict[str, Any]] = _about("options", {})
    params: str | None = _about("params", None)
    rtol: float | None = _about("rtol", None, gt=0, lt=1)
    confidence: float = _about("confidence", 0.95, gt=0, lt=1)
    max_products: int | None = _about("max_products", None, ge=1)
    max_time: Seconds | None = _about("max_time", None)
    shard: Part | None = _about("shard", None)
    jobs: Annotated[int, Field(ge=1)] | Literal["auto"] = _about("jobs", "auto")
    rank_timeout: Seconds = _about("rank_timeout", 600.0, gt=0)
    device: Device = _about("device", "auto")
    dtype: Literal["float32", "float64", "bfloat16"] = _about("dtype", "float32")
    strategy: Strategy | Literal["auto"] = _about("strategy", "auto")
    seed: int = _about("seed", 0, ge=0)
    deterministic: bool = _about("deterministic", False)
    keep_going: bool = _about("keep_going", True)
    allow_unconverged: bool = _about("allow_unconverged", False)
    format: Literal["table", "json", "jsonl", "csv", "md", "latex"] = _about("format", "table")
    out: str | None = _about("out", None)
    export: Paths = _about("export", ())
    sort: str | None = _about("sort", None)
    columns: Names = _about("columns", ())
    precision: Precision = _about("precision", 4)
    per_layer: bool = _about("per_layer", False)
    progress: Literal["auto", "plain", "none"] = _about("progress", "auto")
