import json

import yaml


def test_show_gives_every_value_with_its_origin(flatmeter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flatmeter.yaml").write_text("seed: 3\noptions: {a: {b: 1}}\n")
    monkeypatch.setenv("FLATMETER_RTOL", "0.5")
    code, out, err = flatmeter("config", "show", "--samples", "12")
    assert (code, err) == (0, "")
    origins = dict(line.split("  # ") for line in out.splitlines())
    found = {k.strip(): v for k, v in origins.items()}
    assert found["seed: 3"] == f"{tmp_path}/flatmeter.yaml:1"
    assert found["rtol: 0.5"] == "FLATMETER_RTOL"
    assert found["samples: 12"] == "--samples"
    assert found['options: {"a": {"b": 1}}'] == f"a.b: {tmp_path}/flatmeter.yaml:2"
    assert found['dtype: "float32"'] == "default"


def test_show_lines_up_the_origins(flatmeter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long = "somewhere/" * 9
    lines = flatmeter("config", "show", "--data", long)[1].splitlines()
    columns = {line.index("# ") for line in lines if long not in line}
    assert columns == {len("allow_unconverged: false  ")}


def test_what_show_prints_is_a_file_of_settings(flatmeter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = flatmeter("config", "show", "--rtol", "0.25", "--model-arg", "width=3")[1]
    (tmp_path / "flatmeter.yaml").write_text(first)
    second = flatmeter("config", "show")[1]
    assert yaml.safe_load(first) == yaml.safe_load(second)
    assert yaml.safe_load(second)["model_args"] == {"width": 3}


def test_init_never_overwrites(flatmeter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flatmeter("config", "init")[0] == 0
    text = (tmp_path / "flatmeter.yaml").read_text()
    assert "#samples: 4096" in text
    code, out, err = flatmeter("config", "init")
    assert (code, out) == (2, "")
    assert "flatmeter.yaml: it exists already" in err
    assert "flatmeter config init OTHER.yaml" in err
    assert flatmeter("config", "init", "other.yaml")[0] == 0
    assert flatmeter("config", "init", "no/where.yaml")[0] == 2


def test_schema_describes_the_options_of_every_measure(flatmeter):
    code, out, _ = flatmeter("config", "schema")
    schema = json.loads(out)
    assert code == 0
    assert schema["properties"]["samples"]["default"] == 4096
    options = schema["$defs"]["Options"]["properties"]
    assert {"minimum_sharpness", "bn_sharpness"} <= set(options)


def test_mistakes_name_the_line(flatmeter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flatmeter.yaml").write_text("# ours\nsede: 3\n")
    code, out, err = flatmeter("config", "show")
    assert (code, out) == (2, "")
    assert err == (
        f"flatmeter: error: {tmp_path}/flatmeter.yaml:2: unknown setting 'sede'\n"
        "did you mean 'seed'?\n"
    )
