"""Films by upscale.py's command line, with a tiny network."""

import numpy as np
import pytest
from test_films import write_film

from images import film_reading, films
from upscale import Upscaler


def shown(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))


@pytest.fixture
def command(call, tiny_run):
    """command("film.mp4", …) → (exit status, standard output, standard error)."""

    def run_command(*arguments):
        result = call("upscale.py", "--weights", tiny_run, *arguments)
        return result.returncode, result.stdout, result.stderr

    return run_command


def test_films_go_through_the_network(command, tiny_run, tmp_path):
    """Frames are those that the network makes of pictures; a part has another name than the whole."""
    folder = tmp_path / "in"
    folder.mkdir()
    film = write_film(folder / "film.mp4")
    status, printed, _ = command(folder, "-o", tmp_path / "out")
    assert status == 0 and shown(tmp_path / "out") == ["film.mp4"]
    assert "32×24 → 128×96, 10 frames of 1 tile" in printed
    assert "frames a second" in printed
    plan = films.plan(tmp_path / "out" / "film.mp4", tmp_path / "x.mp4", films.Options(), 1)
    assert plan.film.size == (128, 96) and len(plan.times) == 10
    after = next(plan.film.frames(False, *plan.film.times[:2])).pixels
    lr = next(film_reading.look(film).frames(False, 0, 1)).pixels
    assert np.abs(after.astype(int) - Upscaler(tiny_run).upscale(lr)).mean() < 3
    assert command(film, "-o", tmp_path / "film.png")[0] == 1
    status, printed, _ = command(film, "--preview", "0.1s")
    assert status == 0 and "the whole film of 10 frames would take about" in printed
    assert shown(folder) == ["film.mp4", "film_x4_preview.mp4"]


@pytest.mark.slow
def test_numbered_pictures_are_films(command, tmp_path):
    (tmp_path / "f").mkdir()
    film = write_film(tmp_path / "film.mp4", (0, 40, 80))
    assert command(film, "-o", tmp_path / "f" / "%03d.png")[0] == 0
    assert shown(tmp_path / "f") == ["001.png", "002.png", "003.png"]
    status, printed, _ = command(film, "-o", tmp_path / "f" / "%03d.png")
    assert status == 0 and "3 of 3 pictures were there before" in printed
    status, _, errors = command(tmp_path / "f" / "%03d.png", "-o", tmp_path / "again.mp4", "--fps", "12.5")
    assert status == 0, errors
    assert film_reading.look(tmp_path / "again.mp4").rate == 12.5
    assert command(tmp_path / "f" / "%03d.png", "-o", tmp_path / "f" / "%03d.png")[0] == 1
    assert command(tmp_path / "none" / "%03d.png")[0] == 2


def test_what_a_film_will_lack_is_said_before_the_work(command, tmp_path, monkeypatch):
    film = write_film(tmp_path / "film.mkv", subtitles=[("Hello", 0, 100)])
    monkeypatch.setattr(films, "upscale_film", lambda *arguments: pytest.fail("work has begun"))
    for arguments, words in {
        ("--codec", "h264", "-o", tmp_path / "a.webm"): "which holds vp9 or av1 here",
        ("--from", "1"): "lasts 0.40 s: there is no frame",
    }.items():
        status, _, errors = command(film, *arguments)
        assert status == 1 and words in errors
    monkeypatch.setattr(films, "upscale_film", lambda plan, *_: plan.target.touch() or "")
    status, printed, _ = command(film, "-o", tmp_path / "a.avi")
    assert status == 0 and "film.mkv: the subtitles (srt) cannot be kept" in printed
    status, _, errors = command(film, "--to", "3", "--preview", "2")
    assert status == 2 and "--preview and --to both say where to end" in errors
    assert "there is nothing between --from and --to" in command(film, "--from", "3", "--to", "2")[2]
