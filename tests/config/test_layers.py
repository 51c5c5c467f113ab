import pytest

from flatmeter.config.layers import configure
from flatmeter.errors import UsageError


def _write(folder, text, name="flatmeter.yaml"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_defaults(tmp_path):
    settings = configure(start=tmp_path).settings
    assert settings.samples == 4096
    assert settings.measures == ("all",)
    assert settings.bn is None


def test_the_later_layer_counts_and_says_where_it_stands(tmp_path):
    _write(tmp_path, "samples: 1\nseed: 1\nrtol: 0.1\nconfidence: 0.9\nprecision: 3\n")
    first = _write(tmp_path / "c", "seed: 2\nrtol: 0.2\nconfidence: 0.8\n", "one.yaml")
    second = _write(tmp_path / "c", "# a comment\nrtol: 0.3\nconfidence: 0.7\n", "two.yaml")
    found = configure(
        {"confidence": 0.5, "lr": None},
        files=[first, second],
        environment={"FLATMETER_CONFIDENCE": "0.6", "FLATMETER_RTOL": "1e-2", "HOME": "/"},
        start=tmp_path / "c",
    )
    s = found.settings
    assert (s.samples, s.seed, s.rtol, s.confidence, s.precision) == (1, 2, 0.01, 0.5, 3)
    assert found.origins == {
        "samples": f"{tmp_path}/flatmeter.yaml:1",
        "precision": f"{tmp_path}/flatmeter.yaml:5",
        "seed": f"{first}:1",
        "rtol": "FLATMETER_RTOL",
        "confidence": "--confidence",
    }


def test_options_of_measures_are_joined_one_by_one(tmp_path):
    _write(tmp_path, "options:\n  a: {x: 1, y: 2}\n  b: {z: 3}\n")
    found = configure({"options": {"a": {"y": 5}}}, start=tmp_path)
    assert found.settings.options == {"a": {"x": 1, "y": 5}, "b": {"z": 3}}
    assert found.origins["options.a.y"] == "--set a.y"
    assert found.origins["options.b.z"] == f"{tmp_path}/flatmeter.yaml:3"


def test_arguments_belong_to_the_model_they_were_given_with(tmp_path):
    _write(tmp_path, "model: zoo:mlp\nmodel_args: {width: 3}\n")
    assert configure(start=tmp_path).settings.model_args == {"width": 3}
    assert configure({"model": "zoo:conv"}, start=tmp_path).settings.model_args == {}


def test_project_file_is_kept_apart_for_checkpoints_that_speak_for_themselves(tmp_path):
    _write(tmp_path, "model: zoo:mlp\nsamples: 7\n")
    found = configure({"data": "digits"}, start=tmp_path)
    assert found.project == {"model": "zoo:mlp"}
    assert found.given == {"data": "digits"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nsample: 3\n", r":2: unknown setting 'sample'\ndid you mean 'samples'"),
        ("seed: 1\nseed: 2\n", r":2: 'seed' is given twice, first on line 1"),
        ("samples: many\n", r":1: samples cannot be 'many'"),
        ("bn: train\n", r":1: bn cannot be 'train'.*'eval' or 'batch'"),
        ("max_time: soon\n", r":1: max_time cannot be 'soon': .*not a duration"),
        ("options: {trace: 3}\n", r":1: options of trace must be"),
        ("a: [1,\n", r":2: not YAML"),
        ("just text\n", r"it holds no settings"),
        ("confidence: 1.5\n", r"confidence cannot be 1.5"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path, text, message):
    _write(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        configure(start=tmp_path)
    assert caught.value.exit_code == 2


def test_unknown_variable(tmp_path):
    with pytest.raises(UsageError, match=r"FLATMETER_SEEDS: unknown setting 'seeds'\n.*'seed'"):
        configure(environment={"FLATMETER_SEEDS": "1"}, start=tmp_path)


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"nothing.yaml: cannot read it: No such file"):
        configure(files=[tmp_path / "nothing.yaml"], start=tmp_path)


def test_pickle_is_never_trusted_by_a_file_or_a_variable(tmp_path):
    with pytest.raises(UsageError, match="unknown setting"):
        configure(environment={"FLATMETER_TRUST_PICKLE": "1"}, start=tmp_path)


def test_paths_start_at_the_file_that_names_them(tmp_path):
    _write(
        tmp_path,
        "model: nets/net.py:build\ndata: torchvision:CIFAR10@data\nout: results\n"
        "export: [a.csv]\nmeasures: [gradient_norm, mine.py:Mine]\nloss: pkg.mod:fn\n",
    )
    s = configure(start=tmp_path / "below").settings
    assert s.model == f"{tmp_path}/nets/net.py:build"
    assert s.data == f"torchvision:CIFAR10@{tmp_path}/data"
    assert s.out == f"{tmp_path}/results"
    assert s.export == (f"{tmp_path}/a.csv",)
    assert s.measures == ("gradient_norm", f"{tmp_path}/mine.py:Mine")
    assert s.loss == "pkg.mod:fn"
    assert configure({"out": "here"}, start=tmp_path).settings.out == "here"


def test_lists_may_be_given_several_ways(tmp_path):
    assert configure({"measures": ["a,b", "c"]}, start=tmp_path).settings.measures == (
        "a",
        "b",
        "c",
    )
    assert configure({"columns": "loss,n"}, start=tmp_path).settings.columns == ("loss", "n")
