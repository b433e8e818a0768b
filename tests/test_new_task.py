"""docs/new_task.md run as it is printed, and files of the user's own found again by commands."""

import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import lrd_jax
from lrd_jax import predict
from lrd_jax.config import record, source
from lrd_jax.config.command_line import load_config
from lrd_jax.data import DATASETS
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.evaluation.own_file import bring_in
from lrd_jax.export.__main__ import main as export_main
from lrd_jax.probe.__main__ import main as probe_main
from lrd_jax.report.__main__ import main as report_main

PAGE = (Path(__file__).parents[1] / "docs" / "new_task.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python (\S+)\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the page's files, the current one; forgets afterwards what they registered."""
    assert [name for name, _ in BLOCKS] == ["temporal_order.py", "check_task.py"]
    for name, code in BLOCKS:
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(source, "_imported", set())
    yield tmp_path
    forget()


def forget():
    """What a new process does not know."""
    DATASETS.pop("temporal_order", None)
    sys.modules.pop("temporal_order", None)
    source._imported.clear()


def test_check(folder):
    runpy.run_path(str(folder / "check_task.py"))


def test_the_commands_are_of_the_file(folder):
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.M | re.S)
    words = [shlex.split(line) for line in block.splitlines()]
    assert [line[2].rpartition(".")[2] for line in words] == [
        *("main", "main", "predict", "probe", "report", "export")
    ]
    assert load_config(words[0][3].removeprefix("--config=")).data.name == "temporal_order"


def test_from_a_file_of_ones_own_to_a_trained_model_and_its_use(folder, capsys):
    """Every command finds the file by itself: moved, changed and gone are told in a line each."""
    config = load_config("temporal_order.py")
    config.update_from_flattened_dict(
        {
            "data.data_dir": "data",
            "data.length": 20,
            "data.batch_size": 16,
            "model.cell": "gru",
            "model.hidden_size": 4,
            "train.num_steps": 2,
            "train.eval_every_steps": 2,
            "num_seeds": 1,
        }
    )
    from lrd_jax.training import loop

    loop.run(config, folder / "run", "temporal_order.py")
    kept = json.loads((folder / "run" / "config.json").read_text(encoding="utf-8"))
    assert kept["own_file"]["path"] == str(folder / "temporal_order.py")
    spec = DATASETS["temporal_order"].task(20).spec
    inputs = np.zeros((3, 20, 1), np.int32)
    np.savez(folder / "new.npz", inputs=inputs)
    capsys.readouterr()

    arguments = ["--workdir=run", "--input=new.npz", "--output=said.csv"]
    line = "note: imports " + str(folder / "temporal_order.py")
    forget()
    assert predict.main(arguments) == 0
    assert line in capsys.readouterr().out
    said = (folder / "said.csv").read_text(encoding="utf-8").splitlines()
    assert said[0] == "id,label,p_XX,p_XY,p_YX,p_YY" and len(said) == 4
    forget()
    assert commands.evaluate("run", {"data.data_dir": "data"})["split"] == "test"
    forget()
    assert export_main(["--workdir=run", "--out=model"]) == 0
    exported = (folder / "model" / "config.json").read_text(encoding="utf-8")
    assert "own_file" not in exported and str(folder) not in exported
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert f"--config={folder.name}/temporal_order.py" in card and "XY" in card
    forget()
    assert probe_main(["model", "--workdir=run", "--out=drawn"]) == 0
    forget()
    assert report_main(["run", "--out=report", "--no-figures"]) == 0
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert f"--config={folder}/temporal_order.py" in page

    # Moved: found in the current folder if it is the same file.
    forget()
    away = folder / "elsewhere"
    away.mkdir()
    (folder / "temporal_order.py").rename(away / "temporal_order.py")
    capsys.readouterr()
    assert predict.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("lrd_jax: error: data.name=temporal_order is not known here: the run was")
    assert str(folder / "temporal_order.py") in err and err.count("\n") == 1
    assert source.again(folder / "run", ["data.data_dir"]).endswith("every value is given")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(away)
        assert lrd_jax.load(folder / "run").spec == spec

    # Changed: told, and used as it is now.
    forget()
    changed = (away / "temporal_order.py").read_text(encoding="utf-8") + "\n# more\n"
    (folder / "temporal_order.py").write_text(changed, encoding="utf-8")
    bring_in("run", record.load_workdir("run"))
    told = capsys.readouterr().err
    assert f"{folder / 'temporal_order.py'} has changed since run was made from it" in told
    assert "temporal_order" in DATASETS


def test_a_file_that_fails_or_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "_imported", set())
    mine = tmp_path / "mine.py"
    mine.write_text("x = 1", encoding="utf-8")
    kept = source.own_file(str(mine))
    config = tmp_path / "config.json"
    config.write_text(record.to_json(load_config("configs/base.py"), **kept), encoding="utf-8")
    mine.unlink()
    bring_in(tmp_path, record.load_workdir(tmp_path))  # it defined nothing that is missing
    source._imported.clear()
    mine.write_text("raise KeyError('no')", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.py, which .* was made from, failed: KeyError"):
        source.import_own(tmp_path)
    config.write_text(json.dumps({"own_file": 3}), encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        source.import_own(tmp_path)


def test_a_changed_module_that_the_file_imports_is_noticed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source, "_imported", set())
    (tmp_path / "its_cell_of_strangers.py").write_text("width = 1", encoding="utf-8")
    mine = tmp_path / "mine.py"
    mine.write_text("import numpy\nfrom its_cell_of_strangers import width", encoding="utf-8")
    first = source.own_file(str(mine))["own_file"]["sha256"]
    (tmp_path / "its_cell_of_strangers.py").write_text("width = 2", encoding="utf-8")
    assert source.own_file(str(mine))["own_file"]["sha256"] != first


def test_the_project_s_own_configs_are_not_recorded():
    assert source.own_file("configs/urlstm_pdigits.py:quick") == {} == source.own_file("")
