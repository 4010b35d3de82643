"""A blind rating study (the paper's mean opinion score): its pictures, each rater's plan, and the ratings.

    STUDY/study.json       the settings and the pictures by set, image and method: written once
    STUDY/pictures/        copies, each under its SHA-256, so that a later evaluate.py cannot change what is rated
    STUDY/ratings.sqlite   raters, plans and ratings; every rating is on the disk before the rater sees the next picture

A rater first confirms 20 examples whose worth is shown (the paper's calibration: nearest neighbour is a 1, the original
a 5), then rates all pictures in a random order, another one for each rater. stimuli.py makes a study, server.py shows
it, and opinions.py evaluates the ratings.
"""

import random
import secrets
import sqlite3
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import utils
from images.hashes import file_digest
from runs import store
from utils import UserError

ORIGINAL = "original"  # HR, rated as one of the methods, as in the paper
SCALE = (1, 2, 3, 4, 5)
LONGEST = 24 * 60 * 60 * 1000  # milliseconds that looking at one picture may take

TABLES = """
CREATE TABLE IF NOT EXISTS raters (rater INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS showings (
    rater INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('example', 'first', 'repeat')),
    picture INTEGER NOT NULL,  -- of study.json's examples or pictures
    PRIMARY KEY (rater, position));
CREATE TABLE IF NOT EXISTS ratings (  -- the last one of a showing counts, earlier ones are kept
    id INTEGER PRIMARY KEY, rater INTEGER NOT NULL, position INTEGER NOT NULL,
    rating INTEGER NOT NULL CHECK (rating BETWEEN 1 AND 5), milliseconds INTEGER NOT NULL,
    answer TEXT NOT NULL,  -- a random name from the page: shows that an answer is sent again
    time TEXT NOT NULL,
    UNIQUE (rater, answer), FOREIGN KEY (rater, position) REFERENCES showings);
"""


class Refused(Exception):
    """A rating that cannot be taken; its text says why."""


class Picture(NamedTuple):
    """One picture of a study, and its file's SHA-256; worth: the rating that an example stands for, else None."""

    set: str
    image: str
    method: str
    sha256: str
    worth: int | None = None

    @property
    def key(self):
        """What tells it from the study's other pictures."""
        return self.set, self.image, self.method

    @property
    def photo(self):
        """The photograph that it shows."""
        return self.set, self.image


class Rating(NamedTuple):
    """A rating of one picture by one rater; kind: of the showing, "first" or "repeat"."""

    rater: int
    set: str
    image: str
    method: str
    kind: str
    rating: int
    milliseconds: int
    time: str


# ---------------------------------------------------------------------------------------------------------------------
# The order in which a rater sees the pictures


def spread(items, image_of, draw):
    """The items in random order, where possible without two of one image in a row.

    image_of: from an item to its image; draw: random.Random.
    """
    left, order, before = draw.sample(items, len(items)), [], None
    counts = Counter(map(image_of, left))
    while left:
        # An image that fills half of what is left has to come now, or it would have to come twice in a row later.
        due = {image for image, count in counts.items() if 2 * count > len(left)} - {before}
        allowed = due or {image for image, count in counts.items() if count} - {before} or {before}
        item = next(item for item in left if image_of(item) in allowed)
        left.remove(item)
        before = image_of(item)
        counts[before] -= 1
        order.append(item)
    return order


def make_plan(examples, pictures, repeats, draw):
    """[(kind, index)] of all that a rater is shown: the examples, then the pictures, some of them a second time.

    Repeats are of the first third of the pictures and come among the last third. draw: random.Random.
    """
    plan = [("example", i) for i in spread(range(len(examples)), lambda i: examples[i].photo, draw)]

    def image_of(showing):
        return pictures[showing[1]].photo

    order = spread([("first", i) for i in range(len(pictures))], image_of, draw)
    third = len(order) // 3
    late = len(order) - third
    for _, i in draw.sample(order[:third], repeats):
        again = ("repeat", i)
        places = range(late, len(order) + 1)
        apart = [p for p in places if image_of(again) not in map(image_of, order[p - 1 : p + 1])]
        order.insert(draw.choice(apart or places), again)
    return plan + order


# ---------------------------------------------------------------------------------------------------------------------
# A study on disk


def now():
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Study:
    """A study, opened: `pictures` and `examples` are lists of Picture, `repeats` their number for each rater.

    Any number of threads may use it. Raises UserError if it cannot be read or a picture has changed.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        content = store.read_json(self.folder / "study.json")
        try:
            self.settings, self.repeats = content["settings"], content["repeats"]
            self.examples, self.pictures = ([Picture(**one) for one in content[k]] for k in ("examples", "pictures"))
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.folder / 'study.json'} does not describe a study ({utils.short(error)})") from None
        for digest in {picture.sha256 for picture in self.examples + self.pictures}:
            path = self.folder / "pictures" / f"{digest}.png"
            if not path.is_file() or file_digest(path, "sha256") != digest:
                raise UserError(f"{path} is gone or changed: it is not the picture that the study was made with")
        self.lock, self.database = threading.Lock(), None
        try:
            self.database = sqlite3.connect(self.folder / "ratings.sqlite", check_same_thread=False)
            # A rating whose answer was confirmed survives a crash of the program and of the machine.
            self.database.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {TABLES}")
            self.database.execute("PRAGMA foreign_keys=ON")
        except sqlite3.Error as error:
            self.close()
            raise UserError(f"{self.folder / 'ratings.sqlite'} cannot be used ({utils.short(error)})") from None

    def close(self):
        if self.database:
            self.database.close()

    def query(self, command, *values):
        """All rows of an SQL query."""
        with self.lock:
            return self.database.execute(command, values).fetchall()

    def add_raters(self, count):
        """Make raters until there are `count`, each with a random token, from which the rater's plan follows."""
        for _ in range(count - len(self.raters())):
            token = secrets.token_urlsafe(16)
            draw = random.Random(f"rater {self.settings['seed']} {token}")
            plan = make_plan(self.examples, self.pictures, self.repeats, draw)
            with self.lock, self.database:
                rater = self.database.execute("INSERT INTO raters (token) VALUES (?)", (token,)).lastrowid
                showings = [(rater, position, *showing) for position, showing in enumerate(plan)]
                self.database.executemany("INSERT INTO showings VALUES (?, ?, ?, ?)", showings)

    def raters(self):
        """[(rater, token, showings rated, showings)]."""
        rated = "(SELECT COUNT(DISTINCT position) FROM ratings r WHERE r.rater = raters.rater)"
        showings = "(SELECT COUNT(*) FROM showings s WHERE s.rater = raters.rater)"
        return self.query(f"SELECT rater, token, {rated}, {showings} FROM raters ORDER BY rater")

    def find_rater(self, token):
        """The number of the rater with this token, or None."""
        found = self.query("SELECT rater FROM raters WHERE token = ?", token)
        return found[0][0] if found else None

    def showing(self, rater, position):
        """(kind, Picture) that a rater is shown at a position, or None."""
        found = self.query("SELECT kind, picture FROM showings WHERE rater = ? AND position = ?", rater, position)
        if not found:
            return None
        ((kind, index),) = found
        return kind, (self.examples if kind == "example" else self.pictures)[index]

    def read_picture(self, rater, position):
        """The PNG that a rater is shown at a position, as bytes; None if there is no such position."""
        found = self.showing(rater, position)
        return (self.folder / "pictures" / f"{found[1].sha256}.png").read_bytes() if found else None

    def progress(self, rater):
        """For the rater's page: {"count": of showings, "worth": [of each example], "ratings": [so far, in order]}."""
        kinds = self.query("SELECT kind, picture FROM showings WHERE rater = ? ORDER BY position", rater)
        worth = [self.examples[i].worth for kind, i in kinds if kind == "example"]
        last = "SELECT rating FROM ratings WHERE id IN (SELECT MAX(id) FROM ratings WHERE rater = ? GROUP BY position)"
        rated = self.query(f"{last} ORDER BY position", rater)
        return {"count": len(kinds), "worth": worth, "ratings": [rating for (rating,) in rated]}

    def rate(self, rater, position, rating, milliseconds, answer):
        """Take a rating; it is on the disk when this returns. The same answer, sent again, changes nothing.

        answer: any text, a new one for each answer of this rater. Raises Refused.
        """
        if rating not in SCALE or isinstance(rating, (bool, float)):
            raise Refused("a rating is 1, 2, 3, 4 or 5")
        if type(milliseconds) is not int or not 0 <= milliseconds <= LONGEST:
            raise Refused("the time taken is a whole number of milliseconds, a day at most")
        if not isinstance(answer, str) or not 0 < len(answer) <= 64:
            raise Refused("an answer has a name of at most 64 characters")
        found = self.showing(rater, position)
        if not found:
            raise Refused("there is no such picture")
        if found[1].worth not in (None, rating):
            raise Refused(f"this example is a {found[1].worth}")
        with self.lock, self.database:
            execute = self.database.execute
            (reached,) = execute("SELECT COALESCE(MAX(position), -1) FROM ratings WHERE rater = ?", (rater,)).fetchone()
            if position > reached + 1:
                raise Refused("the picture before this one is not rated yet")
            row = (rater, position, rating, milliseconds, answer, now())
            command = (
                "INSERT INTO ratings (rater, position, rating, milliseconds, answer, time) VALUES (?, ?, ?, ?, ?, ?)"
            )
            execute(f"{command} ON CONFLICT (rater, answer) DO NOTHING", row)

    def ratings(self):
        """[Rating] of all raters, examples left out, in the order of the showings; of each showing the last one."""
        rows = self.query(
            "SELECT r.rater, s.kind, s.picture, r.rating, r.milliseconds, r.time FROM ratings r JOIN showings s "
            "ON s.rater = r.rater AND s.position = r.position WHERE s.kind != 'example' "
            "AND r.id IN (SELECT MAX(id) FROM ratings GROUP BY rater, position) ORDER BY r.rater, r.position"
        )
        return [Rating(rater, *self.pictures[i].key, kind, *rest) for rater, kind, i, *rest in rows]
