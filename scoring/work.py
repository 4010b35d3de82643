"""The work of an evaluation: all methods on all images, in threads, without what has been done before.

The pictures of one batch are upscaled while those of another are measured, so that all cores are at work; nothing is
held but the batches in hand, so memory does not grow with the number of images.
"""

import itertools
from collections import Counter
from typing import NamedTuple

from tqdm import tqdm

from images import hashes, pictures
from scoring import figures, perceptual
from utils import UserError

REPEATS = 8  # a model is compiled for a shape that has at least this many batches: some seconds, then a sixth faster
BATCH = 4  # images at most, all of one size: padding them to one size would change what the network sees at the border


class Task(NamedTuple):
    """A batch of images to be scored by one method; repeats: whether many batches of the same shape are to come."""

    set_name: str
    images: list  # testsets.Image, LR of one size
    method: object  # see evaluate.py
    there: dict  # {image: the hash of its picture's pixels} of those whose pictures lie in the report already
    repeats: bool

    @property
    def new(self):
        """The images whose pictures are to be made."""
        return [image for image in self.images if image.name not in self.there]


def make_tasks(methods, sets, out, known, pool):
    """[Task] for every method on every image; arguments as in evaluate."""
    batches = [(name, images) for name, members in sets.items() for images in batches_of(members.images)]

    def task_of(part):
        (name, images), method = part
        there = {}
        for image in images:
            files = figures.files_of(out / name, image.name, method.name)
            if note := known.files(method.made_of(name, image), *files):
                there[image.name] = note["pixels"]
        return Task(name, images, method, there, False)

    tasks = list(pool.map(task_of, itertools.product(batches, methods)))
    counts = Counter((task.method.name, len(task.new), task.images[0].lr_size) for task in tasks)
    return [
        task._replace(repeats=counts[task.method.name, len(task.new), task.images[0].lr_size] >= REPEATS)
        for task in tasks
    ]


def batches_of(images):
    """[testsets.Image] as lists of at most BATCH images whose LR is of one size; sizes as they first come."""
    sizes = {}
    for image in images:
        sizes.setdefault(image.lr_size, []).append(image)
    return [same[i : i + BATCH] for same in sizes.values() for i in range(0, len(same), BATCH)]


def ready(tasks, optional):
    """Load the methods that have pictures to make; returns the tasks.

    One that cannot be loaded is left out and named if `optional`, else a UserError.
    """
    methods = {task.method.name: task.method for task in tasks if task.new}
    for name, method in methods.items():
        try:
            method.ready()
        except UserError as error:
            if not optional:
                raise
            print(f"left out: {error}")
            tasks = [task for task in tasks if task.method.name != name]
    return tasks


def score(task, names, scale, folder, known):
    """[{measure: value}] of a task's images; writes new pictures below the set's folder. Arguments: see evaluate."""
    scores, new = [], task.new
    made = {
        image.name: sr for image, sr in zip(new, task.method.pictures(new, task.repeats) if new else (), strict=True)
    }
    for image in task.images:
        files = figures.files_of(folder, image.name, task.method.name)
        if image.name in made:
            figures.write_method(folder, image, task.method.name, made[image.name])
            pixels = hashes.pixel_hash(made[image.name])
            known.add_files(task.method.made_of(task.set_name, image), {"pixels": pixels}, *files)
        else:
            pixels = task.there[image.name]

        def read(name=image.name, path=files[0]):
            return made[name] if name in made else pictures.read_image(path)

        scores.append(known.measure(names, image, scale, pixels, read))
    return scores


def evaluate(tasks, sets, names, scale, out, known, pool):
    """Do the tasks and write the pictures: {set: {method: {image: {measure: value}}}}.

    sets: {set: testsets.ImageSet}; names: measures, keys of metrics.COLUMNS; out: folder, gets the pictures
    (figures.py); known: kept.Kept; pool: Executor, its threads do the work.
    """
    methods = list(dict.fromkeys(task.method.name for task in tasks))
    results = {
        name: {method: {image.name: None for image in members.images} for method in methods}
        for name, members in sets.items()
    }
    answers = pool.map(lambda task: score(task, names, scale, out / task.set_name, known), tasks)
    with tqdm(total=sum(len(task.images) for task in tasks), unit="image", desc="scoring", disable=None) as progress:
        for task, scores in zip(tasks, answers, strict=True):
            for image, values in zip(task.images, scores, strict=True):
                results[task.set_name][task.method.name][image.name] = values
            progress.update(len(task.images))
    return results


def of_sets(scores, out):
    """{set: {method: {"fid": value}}} of the pictures below `out`; scores: from evaluate."""
    rows = [(set_name, method) for set_name, methods in scores.items() for method in methods]
    found = {set_name: {} for set_name in scores}
    for set_name, method in tqdm(rows, unit="row", desc="FID", disable=None):
        images = scores[set_name][method]
        srs = [out / set_name / figures.path_of(image, method) for image in images]
        hrs = [out / set_name / figures.path_of(image, folder="original") for image in images]
        found[set_name][method] = {"fid": perceptual.distance(srs, hrs)}
    return found
