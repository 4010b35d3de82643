"""The rating study without its page: pictures, plans, and ratings that are taken once, refused, or kept."""

import json
import random
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import closing

import numpy as np
import pytest
from conftest import write_evaluation

import data
import utils
from images import pictures
from utils import UserError
from web.study import plans, stimuli
from web.study.plans import Picture, Refused, Study

SETS = {"Set5": ("baby", "bird", "head"), "own": ("one", "two")}
METHODS = ("nearest", "bicubic", "mine")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with evaluate/, as evaluate.py writes it, and a study made of it."""
    folder = tmp_path_factory.mktemp("made")
    write_evaluation(folder / "evaluate", np.random.default_rng(0), SETS, METHODS)
    stimuli.make(folder / "study", folder / "evaluate", repeats=3)
    return folder


@pytest.fixture
def source(made, tmp_path):
    """A copy of what evaluate.py wrote."""
    return shutil.copytree(made / "evaluate", tmp_path / "evaluate")


@pytest.fixture
def opened(made, tmp_path):
    """A copy of the study, with two raters."""
    opened = Study(shutil.copytree(made / "study", tmp_path / "study"))
    opened.add_raters(2)
    yield opened
    opened.close()


# ---------------------------------------------------------------------------------------------------------------------
# Plans


def pictures_of(images, methods):
    return [Picture("s", f"image{i}", f"method{j}", "") for i in range(images) for j in range(methods)]


@pytest.mark.parametrize(("images", "methods", "repeats"), [(5, 4, 6), (10, 9, 10), (3, 2, 2), (2, 5, 3), (30, 1, 0)])
def test_a_plan_shows_everything_once_and_repeats_late(images, methods, repeats):
    pictures, examples = pictures_of(images, methods), pictures_of(10, 2)
    for seed in range(20):
        plan = plans.make_plan(examples, pictures, repeats, random.Random(seed))
        assert plan == plans.make_plan(examples, pictures, repeats, random.Random(seed))
        assert sorted(plan[:20]) == [("example", i) for i in range(20)]
        shown = [examples[i] for _, i in plan[:20]], [pictures[i] for _, i in plan[20:]]
        kinds = Counter(kind for kind, _ in plan)
        assert kinds["first"] == len(pictures) and kinds["repeat"] == repeats
        assert sorted(i for kind, i in plan if kind == "first") == list(range(len(pictures)))
        repeated = [i for kind, i in plan if kind == "repeat"]
        assert len(set(repeated)) == repeats
        for i in repeated:
            assert plan.index(("repeat", i)) - plan.index(("first", i)) > len(pictures) // 3
        if images > 2:
            for part in shown:
                assert all(a.image != b.image for a, b in zip(part, part[1:], strict=False))
    assert plan != plans.make_plan(examples, pictures, repeats, random.Random(99))


def test_spreading_as_far_as_possible():
    for seed in range(20):
        assert "".join(plans.spread("aaab", str, random.Random(seed))) in ("abaa", "aaba")
        assert "".join(plans.spread("aabab", str, random.Random(seed))) == "ababa"
        assert plans.spread("aaa", str, random.Random(seed)) == ["a"] * 3


def test_no_method_comes_early_more_often():
    pictures = pictures_of(6, 3)
    places = np.zeros(3)
    for seed in range(400):
        plan = plans.make_plan([], pictures, 0, random.Random(seed))
        for place, (_, i) in enumerate(plan):
            places[i % 3] += place / (400 * 6)
    np.testing.assert_allclose(places, 8.5, atol=0.35)  # standard deviation of a mean: 0.1


# ---------------------------------------------------------------------------------------------------------------------
# Making


def test_pictures_are_copied(opened, source):
    assert len(opened.pictures) == 5 * 4 and opened.repeats == 3
    for picture in opened.pictures:
        path = stimuli.picture_path(source, *picture.key)
        assert (opened.folder / "pictures" / f"{picture.sha256}.png").read_bytes() == path.read_bytes()
    assert len({picture.sha256 for picture in opened.pictures}) == 20
    kept = {path.stem for path in (opened.folder / "pictures").iterdir()}
    assert kept == {picture.sha256 for picture in opened.pictures + opened.examples}


def test_choosing_what_is_rated(source, tmp_path):
    stimuli.make(tmp_path / "a", source, ["Set5"], ["mine", "original"], images=2, seed=7)
    stimuli.make(tmp_path / "b", source, ["Set5"], ["mine", "original"], images=2, seed=8)
    with closing(Study(tmp_path / "a")) as made, closing(Study(tmp_path / "b")) as other:
        assert made.settings["seed"] == 7 and made.examples != other.examples
    assert {p.set for p in made.pictures} == {"Set5"} and len(made.pictures) == 4 and made.repeats == 1
    assert Counter(p.method for p in made.pictures) == {"mine": 2, "original": 2}
    # The other images are examples, then photographs of the libraries.
    names = {p[:2] for p in made.examples}
    assert len(names) == 10 and {("own", "one"), ("own", "two")} < names
    assert not names & {p[:2] for p in made.pictures}
    assert {name[0] for name in names} == {"Set5", "own", data.SAMPLES}


def test_examples_are_nearest_and_original(source, tmp_path):
    stimuli.make(tmp_path / "study", source, ["Set5"])
    with closing(Study(tmp_path / "study")) as made:
        examples = made.examples
    assert not {e.image for e in examples} & {"baby", "bird", "head"}
    assert [e.worth for e in examples] == [1, 5] * 10
    nearest, original = (
        pictures.read_image(tmp_path / "study" / "pictures" / f"{e.sha256}.png")
        for e in examples
        if (e.set, e.image) == ("own", "one")
    )
    np.testing.assert_array_equal(original, pictures.read_image(source / "own" / "original" / "one.png"))
    lr = pictures.read_image(source / "own" / "lr" / "one.png")
    np.testing.assert_array_equal(nearest, lr.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sets": ["Set9"]}, "no set called 'Set9'; there are Set5, own"),
        ({"methods": ["his"]}, "no method called 'his'; there are nearest, bicubic, mine, original"),
        ({"repeats": 7}, "7 repeats are more than a third of the 20 pictures"),
    ],
)
def test_unknown_names_are_refused(source, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        stimuli.make(tmp_path / "study", source, **settings)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("where", ["set", "method", "image"])
def test_names_that_lead_out_of_the_folder_are_refused(source, tmp_path, where):
    """results.json may come from elsewhere: nothing outside its folder is read, whatever it calls its pictures."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "secret_mine.png").write_bytes(b"secret")
    names = {"set": "Set5", "method": "mine", "image": "baby"} | {where: f"../../{tmp_path.name}/secret"}
    rows = {names["method"]: {"images": {names["image"]: {}}}}
    (source / "results.json").write_text(json.dumps({names["set"]: rows}))
    with pytest.raises(UserError, match="is not a picture that evaluate.py wrote"):
        stimuli.make(tmp_path / "study", source)
    assert b"secret" not in [path.read_bytes() for path in utils.list_files(tmp_path / "study")]
    with pytest.raises(UserError, match="is not a picture"):
        stimuli.inside(source, "../secret.png")


def test_what_is_no_evaluation_is_refused(source, tmp_path):
    text = (source / "results.json").read_text()
    uneven = '{"Set5": {"mine": {"images": {"baby": {}}}, "his": {"images": {}}}}'
    for content in (uneven, "[]", "{}", '{"Set5": {}}', '{"Set5": {"original": {"images": {}}}}', '{"Set5": 3}', "x"):
        (source / "results.json").write_text(content)
        with pytest.raises(UserError, match="results.json"):
            stimuli.make(tmp_path / "study", source)
    (source / "results.json").write_text(text)
    utils.write_image(source / "own" / "two_mine.png", np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(UserError, match="two_mine.png is not of its original's size"):
        stimuli.make(tmp_path / "study", source)
    stimuli.make(tmp_path / "study", source, sets=["Set5"])  # what was left half made is no hindrance
    with pytest.raises(UserError, match="is no study, and not empty"):
        stimuli.make(source, source)


def test_a_changed_picture_is_noticed(opened):
    path = next((opened.folder / "pictures").iterdir())
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="is gone or changed"):
        Study(opened.folder)


def test_a_broken_study_is_named(opened):
    opened.close()
    for name, words in (("ratings.sqlite", "cannot be used"), ("study.json", "cannot be read")):
        (opened.folder / name).write_text("nonsense, and more of it than SQLite's header is long" * 9)
        with pytest.raises(UserError, match=f"{name} {words}"):
            Study(opened.folder)
    (opened.folder / "study.json").write_text('{"pictures": [{}]}')
    with pytest.raises(UserError, match="study.json does not describe a study"):
        Study(opened.folder)


# ---------------------------------------------------------------------------------------------------------------------
# Rating


def rate_all(opened, rater, rating_of, start=0, stop=None):
    """Rate as a person would: examples as they are worth, then rating_of(kind, picture)."""
    for position in range(start, stop or opened.progress(rater)["count"]):
        kind, picture = opened.showing(rater, position)
        opened.rate(rater, position, picture.worth or rating_of(kind, picture), 1000, f"{position}")


def test_plans_are_stored_and_follow_from_the_token(opened):
    (_, first, *_), (_, second, *_) = opened.raters()
    assert len(first) >= 22 and first != second
    draw = random.Random(f"rater 0 {first}")
    plan = plans.make_plan(opened.examples, opened.pictures, 3, draw)
    assert plan == opened.query("SELECT kind, picture FROM showings WHERE rater = 1 ORDER BY position")
    assert plan != opened.query("SELECT kind, picture FROM showings WHERE rater = 2 ORDER BY position")
    opened.add_raters(2)  # there are as many: the links stay
    assert [row[1] for row in opened.raters()] == [first, second]
    assert opened.find_rater(first) == 1 and opened.find_rater(first + "x") is None


def test_only_1_to_5(opened):
    rate_all(opened, 1, None, stop=20)
    for rating in (0, 6, -1, "3", None, True, 3.0, [3], float("nan"), 2**70):
        with pytest.raises(Refused, match="1, 2, 3, 4 or 5"):
            opened.rate(1, 20, rating, 1000, "a")
    assert opened.progress(1)["ratings"][20:] == []


def test_what_is_refused(opened):
    worth = opened.progress(1)["worth"]
    assert sorted(worth) == [1] * 10 + [5] * 10
    with pytest.raises(Refused, match=f"this example is a {worth[0]}"):
        opened.rate(1, 0, 3, 1000, "a")
    for position in (1, 5):
        with pytest.raises(Refused, match="before this one"):
            opened.rate(1, position, worth[position], 1000, "a")
    for position in (-1, 43, 2**62):
        with pytest.raises(Refused, match="no such picture"):
            opened.rate(1, position, 3, 1000, "a")
    for milliseconds in (-1, 1.5, "7", None, plans.LONGEST + 1, 2**70, True):
        with pytest.raises(Refused, match="milliseconds"):
            opened.rate(1, 0, worth[0], milliseconds, "a")
    for answer in ("", "x" * 65, 7, None):
        with pytest.raises(Refused, match="64 characters"):
            opened.rate(1, 0, worth[0], 1000, answer)
    assert opened.raters()[0][2] == 0


def test_the_last_rating_counts_and_the_history_stays(opened):
    rate_all(opened, 1, lambda kind, picture: 2, stop=22)
    opened.rate(1, 20, 4, 500, "correction")
    opened.rate(1, 20, 2, 1000, "20")  # the first answer, sent again late: nothing changes
    opened.rate(1, 20, 4, 500, "correction")
    assert opened.progress(1)["ratings"][20:] == [4, 2]
    assert [r.rating for r in opened.ratings()] == [4, 2]
    assert [r.milliseconds for r in opened.ratings()] == [500, 1000]
    assert opened.query("SELECT rating FROM ratings WHERE position = 20 ORDER BY id") == [(2,), (4,)]
    assert opened.progress(2)["ratings"] == []


def test_another_reader_sees_ratings_at_once(opened):
    rate_all(opened, 1, lambda kind, picture: 3, stop=25)
    with closing(Study(opened.folder)) as other:
        assert other.progress(1) == opened.progress(1) and len(other.ratings()) == 5
        assert other.query("PRAGMA synchronous") == [(2,)] and other.query("PRAGMA journal_mode") == [("wal",)]


def test_two_raters_at_once(opened):
    threads = [
        threading.Thread(target=rate_all, args=(opened, rater, lambda kind, picture, rater=rater: 1 + rater))
        for rater in (1, 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done == count == 43 for *_, done, count in opened.raters()] == [True, True]
    ratings = opened.ratings()
    assert Counter((r.rater, r.rating, r.kind) for r in ratings) == {
        (rater, 1 + rater, kind): count for rater in (1, 2) for kind, count in (("first", 20), ("repeat", 3))
    }


def test_the_database_itself_refuses_nonsense(opened):
    for row in ((1, 0, 9, 1, "a", "now"), (1, 999, 3, 1, "a", "now"), (9, 0, 3, 1, "a", "now")):
        with pytest.raises(sqlite3.IntegrityError), opened.database:
            opened.database.execute(
                "INSERT INTO ratings (rater, position, rating, milliseconds, answer, time) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )
