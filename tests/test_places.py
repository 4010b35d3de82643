"""A run and an evaluation find their images again; their folder is named when it is gone, and no run has it in it."""

import json
import shutil

import pytest
from conftest import TINY, assert_refused, make_run, photo

import data
import utils
from runs import places, store


@pytest.fixture
def pictures(clone, rng):
    """A folder of photographs, of which the clone's places know nothing."""
    folder = clone / "photos of mine"
    shutil.rmtree(folder, ignore_errors=True)
    (clone / "checkpoint" / places.FILE).unlink(missing_ok=True)
    for i in range(4):
        utils.write_image(folder / f"{i}.png", photo(rng, 64, 64))
    return folder


def test_a_resumed_run_finds_its_photographs(pictures, call, clone):
    directory = clone / "checkpoint" / "mine"
    shutil.rmtree(directory, ignore_errors=True)
    make_run(directory, "srresnet", "DATA.validation=1")
    about = json.loads((directory / "config.json").read_text())
    _, facts = data.read_training(str(pictures), store.read_about(directory / "config.json")["config"])
    store.write_json(directory / "config.json", about | {"data": facts})
    command = ("train.py", "--resume=mine", "--dry-run")
    assert_refused(call(*command), "was trained on other photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PROJECT", clone)
        places.remember("mine", pictures)
    result = call(*command)
    assert result.returncode == 0, result.stderr
    assert f"data root: {pictures}, as the last time" in result.stdout
    pictures.rename(clone / "elsewhere")
    assert_refused(call(*command), f"the images of mine were in {pictures}, which is gone", "--data")
    result = call(*command, "--data=elsewhere")
    assert result.returncode == 0 and "as the last time" not in result.stdout
    shutil.rmtree(clone / "elsewhere")
    assert not any(bytes(clone) in path.read_bytes() for path in directory.rglob("*") if path.is_file())


def test_an_evaluation_finds_its_sets_again(pictures, call, clone):
    arguments = ["--methods=bicubic", "--metrics=psnr_y", "--out=again"]
    assert call("evaluate.py", "--data=.", f"--sets={pictures.name}", *arguments).returncode == 0
    result = call("evaluate.py", f"--sets={pictures.name}", *arguments)
    assert result.returncode == 0 and f"data root: {clone}, as the last time" in result.stdout
    result = call("evaluate.py", *arguments)  # it has none of the three sets
    assert result.returncode == 0 and "no test set was found" in result.stdout
    result = call("evaluate.py", f"--sets={pictures.name}", *arguments, env={"SRGAN_DATA": str(clone / "checkpoint")})
    assert_refused(result, "there is no set called")


def test_a_damaged_file_and_none_remember_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    assert places.data_of("a", None) is None and places.data_of("a", "given") == "given"
    places.remember("a", None)
    assert not (tmp_path / places.FILE).exists()
    for content in ("{", "[]"):
        (tmp_path / places.FILE).write_text(content)
        assert places.data_of("a", None) is None
    places.remember("a", tmp_path)
    places.remember("b", tmp_path / "x")
    assert places.data_of("a", None) == str(tmp_path)


def test_it_is_not_shipped():
    """The folder of runs ships two of them and two pages, and nothing that begins with a dot."""
    from conftest import PROJECT

    lines = (PROJECT / ".gitignore").read_text().splitlines()
    assert "/checkpoint/*" in lines and not any(line.startswith("!/checkpoint/.") for line in lines)


@pytest.mark.slow
def test_a_training_remembers_its_photographs(pictures, call, clone, monkeypatch):
    import train

    monkeypatch.setattr(train, "train", lambda *arguments: None)
    assert call("train.py", "--data", pictures, "--name=remembered", "--steps=2", *TINY).returncode == 0
    content = json.loads((clone / "checkpoint" / places.FILE).read_text())
    assert content == {"remembered": str(pictures)}
