import json
from pathlib import Path

import pytest

import utils
from config import DEFAULTS, make_config
from images import hashes
from runs import store
from utils import UserError

TINY_MODEL = ["MODEL.blocks=1", "MODEL.width=8"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(store, "PROJECT", tmp_path)
    return tmp_path / "runs"


def make_run(name, mode="srresnet", score=None, steps=10, overrides=(), facts=()):
    """A run directory as train.py leaves it, with its last logged step."""
    config = make_config(mode, overrides=[*TINY_MODEL, "TRAIN.steps=10", *overrides])
    directory = store.check_name(name)
    store.create(store.Run(directory, mode, "slides", config), dict(facts))
    line = {"step": steps} | ({} if score is None else {"val_psnr_y": score})
    (directory / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    (directory / store.WEIGHTS).write_bytes(b"x")
    return directory


def test_names(root):
    make_run("taken")
    with pytest.raises(UserError, match="there is a run called 'taken' already"):
        store.check_name("taken")
    for name in ("", "../up", "a/b", ".hidden", "-flag"):
        with pytest.raises(UserError, match="plain file name"):
            store.check_name(name)
    for name in ("evaluate", "reproduce", "subpixel", "Subpixel"):
        with pytest.raises(UserError, match="has another use"):
            store.check_name(name)


def test_writing_is_whole_or_absent(root):
    directory = make_run("a")
    before = (directory / "config.json").read_text()
    with pytest.raises(TypeError):
        store.write_json(directory / "config.json", {"a": object()})

    def fail(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(UserError, match="disk full"):
        utils.write_atomically(directory / "config.json", fail)
    assert (directory / "config.json").read_text() == before


def test_a_network_that_takes_something_else_is_refused(root):
    directory = make_run("foreign")
    about = json.loads((directory / "config.json").read_text())
    assert about["network"] == store.NETWORK
    about["network"]["kernel"] = "a Gaussian blur"
    store.write_json(directory / "config.json", about)
    with pytest.raises(UserError, match="the network's kernel is 'a Gaussian blur'"):
        store.describe_weights("foreign")


def test_runs_of_other_settings_than_todays_can_be_used(root):
    """One that is newer than the run is its default, one that was dropped is left out; no other may be unknown."""
    directory = make_run("old")
    about = json.loads((directory / "config.json").read_text())

    def described():
        store.write_json(directory / "config.json", about)
        return store.describe_weights("old")[1]["config"]

    whole = described()
    about["config"]["TRAIN"] |= {"accumulate": 4}
    del about["config"]["DATA"]["detail"], about["config"]["MODEL"]["skip"]
    expected = whole | {"MODEL": whole.MODEL | {"skip": "none"}}
    assert described() == expected and "accumulate" not in described().TRAIN
    about["config"]["TRAIN"]["speed"] = 4
    with pytest.raises(UserError, match="no setting is called 'TRAIN.speed'"):
        described()
    del about["config"]["TRAIN"]["speed"], about["config"]["MODEL"]["width"]
    with pytest.raises(UserError, match="'width'"):
        described()


@pytest.mark.parametrize(("mode", "preset", "shift"), [("srresnet", "default", False), ("srgan", "default", True)])
def test_the_shipped_runs_are_read_as_they_were_written(mode, preset, shift):
    """Whatever a preset means today: what counts is the configuration beside it."""
    path = Path(utils.PROJECT) / "checkpoint" / f"{mode}_x4" / "config.json"
    written, about = json.loads(path.read_text()), store.read_about(path)
    config = about["config"]
    assert (about["mode"], about["preset"], config.MODEL.skip, config.TRAIN.shift) == (mode, preset, "bicubic", shift)
    for section in config:
        theirs = written["config"][section]
        assert {f"{section}.{key}" for key in set(theirs) - set(config[section])} <= set(store.DROPPED)
        for key, value in config[section].items():
            assert value == theirs.get(key, DEFAULTS[section][key]), key


def test_scores_belong_to_the_bytes_of_their_weights(root):
    weights = make_run("scored") / store.WEIGHTS
    assert store.read_scores(weights) == {}
    store.write_scores(weights, {"Set5 ×4": {"psnr_y": 30.0}})
    best = weights.with_name(store.BEST)
    best.write_bytes(b"other")
    store.write_scores(best, {"Set5 ×4": {"psnr_y": 31.0}})
    assert store.read_scores(weights) == {"Set5 ×4": {"psnr_y": 30.0}}
    assert store.read_scores(best) == {"Set5 ×4": {"psnr_y": 31.0}}
    weights.write_bytes(b"trained on")
    assert store.read_scores(weights) == {}
    for damaged in ("[]", json.dumps({weights.name: {"sha256": hashes.file_digest(weights, "sha256")}})):
        (weights.parent / store.SCORES).write_text(damaged)
        with pytest.raises(UserError, match="delete it"):
            store.read_scores(weights)


def find_init(least_steps=10):
    return store.find_init(make_config(overrides=TINY_MODEL).MODEL, "this data", least_steps)


def test_what_is_no_file_is_not_replaced(tmp_path):
    with pytest.raises(UserError, match="it is not a file"):
        store.write_json(tmp_path, {})
    assert tmp_path.is_dir()


def test_init_is_the_finished_run_with_the_best_validation(root):
    assert find_init() == (None, None)
    make_run("good", score=27.0)
    make_run("better", score=28.0)
    make_run("unfinished", score=29.0, steps=5)
    make_run("gan", mode="srgan", score=30.0)
    make_run("wider", score=31.0, overrides=["MODEL.width=16"])
    path, why = find_init()
    assert path.parent.name == "better" and "28.00 dB" in why
    make_run("same_data", score=26.0, facts={"data": {"fingerprint": "this data"}})
    assert find_init()[0].parent.name == "same_data"
    assert find_init(least_steps=11) == (None, None)  # the leftovers of a trial


def test_shipped_weights_come_first(root, monkeypatch):
    make_run("better", score=28.0)
    monkeypatch.setenv("SRGAN_RUNS", str(store.PROJECT / "checkpoint"))
    make_run("srresnet_x4", score=20.0)
    path, why = find_init()
    assert path.parent.name == "srresnet_x4" and "come with the project" in why


def test_a_broken_run_does_not_stand_in_the_way(root, capsys):
    about = json.loads((make_run("good", score=27.0) / "config.json").read_text())
    about["config"]["TRAIN"]["steps"] = None
    broken = {
        "x": "{",
        "y": "5",
        "z": '{"mode": "srresnet", "config": {"MODEL": {"scale": 4}}}',
        "w": json.dumps(about),
    }
    for name, content in broken.items():
        (make_run(name) / "config.json").write_text(content)
    with open(root / "good" / "metrics.jsonl", "ab") as file:
        file.write(b"5\n\xff\xfe\n")
    assert find_init()[0].parent.name == "good"
    assert list(store.find_runs()) == ["good"]
    said = capsys.readouterr().out
    assert all(f"left out: {root / name}" in said for name in "xyzw")


def test_runs_are_found_in_both_places(root, monkeypatch):
    make_run("elsewhere")
    with monkeypatch.context() as context:
        context.delenv("SRGAN_RUNS")
        make_run("here")
    assert list(store.find_runs()) == ["here", "elsewhere"]
    assert store.describe_weights("elsewhere")[1]["mode"] == "srresnet"


def test_weights_explain_themselves_or_are_refused(root):
    directory = make_run("a")
    for path in ("a", directory, directory / store.WEIGHTS):
        assert store.describe_weights(path)[0] == directory / store.WEIGHTS
    with pytest.raises(UserError, match="there are no weights at 'nowhere'"):
        store.describe_weights("nowhere")
    (directory / "config.json").write_text('{"mode"')
    with pytest.raises(UserError, match="cannot be read"):
        store.describe_weights("a")
    (directory / "config.json").write_text(json.dumps({"mode": "srresnet"}))
    with pytest.raises(UserError, match="does not describe a run"):
        store.describe_weights("a")
    (directory / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json beside"):
        store.describe_weights(directory / store.WEIGHTS)


def test_weights_come_back_and_damage_is_named(root):
    import numpy as np

    from networks.registry import build_generator

    directory = make_run("a")
    generator = build_generator(make_config(overrides=TINY_MODEL).MODEL)
    store.save_weights(generator, directory / store.WEIGHTS)
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", store.WEIGHTS, "metrics.jsonl"]
    again, about = store.load_generator("a")
    for ours, theirs in zip(generator.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)

    content = (directory / store.WEIGHTS).read_bytes()
    (directory / store.WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be loaded into the generator"):
        store.load_generator("a")
    (directory / store.WEIGHTS).write_bytes(content)
    about["config"].MODEL.width = 16
    store.write_json(directory / "config.json", about)
    with pytest.raises(UserError, match="cannot be loaded into the generator"):
        store.load_generator("a")


def test_machine_names_what_is_installed():
    facts = store.machine("numpy", "no-such-package")
    assert facts["cores"] > 0 and facts["numpy"][0].isdigit() and "no-such-package" not in facts
