"""The rows of the tables: each a command of train.py, and all that the paper has."""

import pytest

from config import make_config
from papers.rows import ROWS, command_of
from scoring import tables
from training import plan


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_a_command_of_train_py(row):
    """Its settings as train.py takes them: the paper's network, one crop, one rule, and for a GAN a start."""
    args = plan.parse_arguments(command_of(row, 10, "photos", ["TRAIN.seed=7"]))
    config, _ = plan.read_config(args)
    assert (config.MODEL.skip, config.TRAIN.shift, config.DATA.crop, config.TRAIN.seed) == ("none", False, 64, 7)
    assert (
        config.TRAIN.steps == max(int(600 / row.seconds), 1) >= 10 and config.TRAIN.save_every <= config.TRAIN.steps / 9
    )
    assert args.mode != "srgan" or row.after
    if row.after:
        assert args.init == f"row-{row.after}"
        papers = make_config(args.mode, args.preset, plan.settings_of(args, plan.WHAT))
        ours = {key for key, value in config.TRAIN.items() if value != papers.TRAIN[key]}
        own = {name.split(".")[1] for name in row.settings}
        assert ours <= {"steps", "seed", "save_every", "validate_every"} | own
    else:
        assert args.init is None and config.TRAIN.last_layer_rate == 1 and config.TRAIN.clip_value == 0
        assert (config.TRAIN.optimizer, config.TRAIN.learning_rate, config.TRAIN.ema) == ("adam", 1e-3, 0.999)
        assert config.TRAIN.batch == (2 if row.name == "drcn" else 16)


def test_rows_are_those_of_the_paper():
    papers = {row.paper for row in ROWS} - {None}
    assert papers <= set(tables.PAPER["Set5"])
    assert set(tables.PAPER["Set5"]) - papers == {"NN", "bicubic", "SelfExSR"}  # the first two are evaluate.py's own
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names) and {row.after for row in ROWS} <= {None, *names}
