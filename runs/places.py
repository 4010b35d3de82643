"""Where the images of a run or a command were: kept in .places.json beside the runs, and in none of them.

A run's folder can be given away; the path of somebody's data does not go with it.
"""

import os
from pathlib import Path

import utils
from runs import devices, store
from utils import UserError

FILE = ".places.json"


def known():
    """{name: path} of what is remembered; {} where there is nothing, or the file is damaged."""
    try:
        content = store.read_json(store.root() / FILE)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def remember(name, folder):
    """Keep the value of --data, or None, under the name of a run or a command."""
    if folder is None or not devices.is_chief():
        return
    try:
        store.root().mkdir(parents=True, exist_ok=True)
        store.write_json(store.root() / FILE, known() | {name: str(Path(folder).resolve())})
    except (UserError, OSError) as error:  # of a folder that is read-only
        print(f"where the images are is not remembered: {utils.short(error)}")


def data_of(name, argument):
    """The value of --data: what was given, or else what it was for `name` the last time, which is printed; else None.

    $SRGAN_DATA counts as given. Raises UserError if the folder of the last time is gone.
    """
    if argument is not None or os.environ.get("SRGAN_DATA") or not (folder := known().get(name)):
        return argument
    if not Path(folder).is_dir():
        raise UserError(f"the images of {name} were in {folder}, which is gone: name their new place with --data")
    print(f"data root: {folder}, as the last time (--data names another)")
    return folder
