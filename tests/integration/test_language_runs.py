"""A language model through the real command line: killed and resumed, sampled, and refused."""

import json
import math
import shutil

import pytest

from lrd_jax.config import command_line, record
from lrd_jax.data.vocabulary import Vocabulary
from lrd_jax.errors import UserError
from lrd_jax.evaluation import commands
from lrd_jax.reporting.writers import read_metrics
from tests.integration.conftest import ROOT, outcome, reached, snapshot, wait_for

LINES = "the quick brown fox\njumps over the lazy dog\nand is never seen again\n"


@pytest.fixture(scope="module")
def text_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "fables"
    folder.mkdir()
    (folder / "fables.txt").write_text(LINES * 40)
    return folder


@pytest.fixture(scope="module")
def command(text_dir):
    """2 448 letters train, in 8 streams: 62 windows of 5, of which a kill leaves some undone."""
    return (
        "--config=configs/char_shakespeare.py:quick",
        f"--config.data.text_dir={text_dir}",
        "--config.data.length=5",
        "--config.data.batch_size=8",
        "--config.model.hidden_size=8",
        "--config.detach.p_block=0.25",
        "--config.devices.cpu_devices=2",
        "--config.train.num_steps=150",
        "--config.train.eval_every_steps=50",
        "--config.train.checkpoint_every_steps=20",
        "--config.train.log_every_steps=1",
    )


@pytest.fixture(scope="module")
def whole(program, command, tmp_path_factory):
    """An uninterrupted run: work directory, and what it printed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    return workdir, *program.run(*command, f"--workdir={workdir}")


@pytest.fixture
def workdir(whole, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(whole[0], tmp_path / "run")


def evaluate(workdir, *overrides):
    flags = [f"--config.{override}" for override in overrides]
    return ("--config=configs/char_shakespeare.py", "--mode=eval", f"--workdir={workdir}", *flags)


@pytest.mark.slow
def test_a_killed_run_ends_like_an_uninterrupted_one(program, command, whole, tmp_path):
    process = program.start(*command, f"--workdir={tmp_path}", cache=False)
    wait_for(reached(tmp_path, 90), process)  # past the border of an epoch, and of a save
    process.kill()
    process.communicate()
    assert not (tmp_path / "result.json").exists()
    out, _ = program.run(*command, f"--workdir={tmp_path}")
    assert "resuming at step" in out
    assert outcome(tmp_path) == outcome(whole[0])
    vocabulary = "vocabulary.json"
    assert (tmp_path / vocabulary).read_text() == (whole[0] / vocabulary).read_text()


def test_what_a_person_sees(whole):
    workdir, out, err = whole
    files = "train: fables.txt; the last tenth validates; test is the validation text"
    assert f"text of fables ({files}): " in out
    assert "28 different characters, 8 streams in windows of 5" in out
    assert "bits per char" in out and "valid bits per char" in err
    result = json.loads((workdir / "result.json").read_text())
    for part in (result["best"]["valid"], result["test"]):
        assert set(part) == {"loss", "bits_per_char"}
        assert part["bits_per_char"] == pytest.approx(part["loss"] / math.log(2))
    for line in read_metrics(workdir / "metrics.jsonl"):
        assert line["bits_per_char"] == pytest.approx(line["loss"] / math.log(2))
    vocabulary = Vocabulary.from_json((workdir / "vocabulary.json").read_text())
    assert set(vocabulary.symbols) == set(LINES)


@pytest.mark.slow
def test_evaluation_with_another_number_of_streams(program, workdir):
    program.run(*evaluate(workdir, "data.batch_size=3"))
    (seed,) = json.loads((workdir / "eval" / "test.json").read_text())["seeds"]
    result = json.loads((workdir / "result.json").read_text())
    assert seed["best"] == result["seeds"][0]["best"]
    assert seed["test"]["loss"] == pytest.approx(result["test"]["loss"], rel=0.05)


def test_sampling(program, workdir, capsys):
    before = snapshot(workdir)

    def sample(**options):
        options = {"sample_tokens": 80, "prompt": "the qu"} | options
        overrides = {f"eval.{key}": value for key, value in options.items()}
        text = commands.evaluate(workdir, overrides | {"data.text_dir": "needed no more"})
        assert (workdir / "eval" / "sample.txt").read_text() == text + "\n"
        assert capsys.readouterr().out.startswith(text + "\n")
        assert len(text) == 6 + 80 and text.startswith("the qu") and set(text) <= set(LINES)
        return text

    drawn = sample()
    assert sample() == drawn
    assert sample(sample_seed=1) != drawn
    greedy = sample(temperature=0.0)
    assert sample(temperature=0.0, sample_seed=1) == greedy != drawn
    assert sample(temperature=1e-4) == greedy
    with pytest.raises(UserError, match="'Ω' is not in the vocabulary"):
        sample(prompt="Ω")
    flags = ("eval.sample_tokens=80", "eval.prompt=the qu", "eval.temperature=0.0")
    out, err = program.run(*evaluate(workdir, *flags))
    assert out.startswith(greedy + "\n") and err == ""
    shutil.rmtree(workdir / "eval")
    assert snapshot(workdir) == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("eval.sample_tokens=-1",), "config.eval.sample_tokens=-1: must be 0 or more"),
        (("eval.sample_tokens=9", "eval.temperature=-1.0"), "eval.temperature=-1.0: must be 0 or"),
    ],
)
def test_samples_that_cannot_be(program, workdir, overrides, message):
    assert message in program.refuse(*evaluate(workdir, *overrides))


def test_sampling_is_for_language_models(tmp_path):
    config = command_line.load_config(f"{ROOT}/configs/urlstm_pdigits.py:quick")
    (tmp_path / "config.json").write_text(record.to_json(config))
    with pytest.raises(UserError, match=r"is for trained language models.*data.name=digits"):
        commands.evaluate(tmp_path, {"eval.sample_tokens": 5})
    with pytest.raises(UserError, match=r"eval.context=5 is for language models: leave it out"):
        commands.evaluate(tmp_path, {"eval.context": 5})


@pytest.mark.slow
def test_a_changed_text_is_refused(program, command, workdir, tmp_path):
    # The same letters, as often: another text all the same.
    changed = tmp_path / "fables"
    changed.mkdir()
    (changed / "fables.txt").write_text(LINES * 39 + LINES[::-1])
    (workdir / "result.json").unlink()  # there is something left to do
    before = snapshot(workdir)
    arguments = (*command, f"--workdir={workdir}", f"--config.data.text_dir={changed}")
    line = program.refuse(*arguments)
    assert "the text is not the one that" in line and "(test, valid text changed)" in line
    line = program.refuse(*evaluate(workdir, f"data.text_dir={changed}"))
    assert "the text is not the one that" in line
    assert {p: t for p, t in snapshot(workdir).items() if p.name != ".lock"} == {
        p: t for p, t in before.items() if p.name != ".lock"
    }
    moved = shutil.copytree(changed.parent / "fables", tmp_path / "moved" / "fables")
    (moved / "fables.txt").write_text(LINES * 40)
    out, _ = program.run(*evaluate(workdir, f"data.text_dir={moved}"))
    assert "bits per char" in out


def test_without_a_text_the_way_out_is_named(program, tmp_path):
    line = program.refuse("--config=configs/char_shakespeare.py", f"--workdir={tmp_path / 'run'}")
    assert "--config.data.text_dir=DIR" in line
    assert not (tmp_path / "run").exists()
