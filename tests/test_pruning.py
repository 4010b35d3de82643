"""Pruning: the thinner network is the same where dropped maps were unread, and what a map is worth."""

import sys

import numpy as np
import pytest
from conftest import TINY_SETTINGS, make_run, photo

import utils
from config import make_config
from networks import counting, thinning
from networks.registry import build_generator
from papers import pruning, pruning_page, runner
from runs import store
from utils import UserError

SMALL = ["MODEL.blocks=2", "MODEL.width=8"]


def random_network(rng, *overrides):
    """(network, MODEL section) with random weights everywhere, also in batch norms and slopes."""
    config = make_config(overrides=[*SMALL, *overrides]).MODEL
    network = build_generator(config)
    network.set_weights([rng.uniform(0.1, 0.5, value.shape) for value in network.get_weights()])
    return network, config


@pytest.fixture
def batch(rng):
    return rng.random((2, 9, 11, 3), np.float32), rng.random((2, 36, 44, 3), np.float32)


def unread(network, config, group, maps):
    """Set to zero what reads these maps of a group."""
    for name, (read, _) in thinning.wires_of(config).items():
        layer = network.get_layer(name)
        values = layer.get_weights()
        if read == group:
            values[0][:, :, maps] = 0
        layer.set_weights(values)


@pytest.mark.parametrize(
    "overrides",
    [
        ("MODEL.widths=7 8 6 6 8",),
        pytest.param((), marks=pytest.mark.slow),
        pytest.param(("MODEL.scale=2", "MODEL.skip=none"), marks=pytest.mark.slow),
    ],
)
def test_what_nobody_reads_is_dropped_without_a_trace(rng, batch, overrides):
    network, config = random_network(rng, *overrides)
    dropped = {group: [1, 3] for group in thinning.groups_of(config)}
    for group, maps in dropped.items():
        unread(network, config, group, maps)
    worth = thinning.scores(network, config, [(batch[0], batch[1][:, : 9 * config.scale, : 11 * config.scale])])
    assert all(np.all(worth[group][maps] == 0) for group, maps in dropped.items())
    share = sum(map(len, dropped.values())) / sum(map(len, worth.values()))
    kept = thinning.choose(worth, share)
    assert all(set(kept[group]).isdisjoint(maps) for group, maps in dropped.items())
    thinner, section = thinning.thin(network, config, kept)
    assert section.widths == " ".join(str(n - 2) for n in thinning.groups_of(config).values())
    np.testing.assert_allclose(thinner(batch[0]), network(batch[0]), rtol=1e-4, atol=1e-4)
    work = [counting.multiply_adds(each, (1, 9, 11, 3)) for each in (network, thinner)]
    assert work[1] < 0.8 * work[0]


@pytest.mark.slow
def test_worth_is_what_the_loss_changes_by(rng, batch):
    """Against the loss with a map scaled down a little, image by image."""
    network, config = random_network(rng)
    worth = thinning.scores(network, config, [batch])["block2"]
    layer, by_hand = network.get_layer("block2_conv2"), np.zeros(8)
    before, step = layer.get_weights(), 1e-2
    for k in range(8):
        losses = []
        for factor in (1 + step, 1 - step):
            kernel = before[0].copy()
            kernel[:, :, k] *= factor
            layer.set_weights([kernel, before[1]])
            sr = np.asarray(network(batch[0], training=False), float)
            losses.append(((sr - batch[1]) ** 2).mean(axis=(1, 2, 3)))
        by_hand[k] = np.abs(losses[0] - losses[1]).sum()
    layer.set_weights(before)
    np.testing.assert_allclose(worth, by_hand / by_hand.mean(), rtol=2e-2)


@pytest.mark.slow
def test_two_rounds_of_the_command(clone, tmp_path, rng, monkeypatch, capsys):
    """Each round is thinner, and what is finished is not done again."""
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(store, "PROJECT", clone)  # whose train.py writes samples
    for i in range(3):
        utils.write_image(tmp_path / "photos" / f"{i}.png", photo(rng, 64, 70))
    make_run(tmp_path / "runs" / "thick", "srresnet")
    (tmp_path / "runs" / "pruned-thick-1-start").mkdir()  # of a call that was stopped
    command = ["pruning.py", "--weights=thick", "--lose=100", "--share=0.2", "--work=0.7", "--steps=2", "--batch=2"]
    command += [f"--set={setting}" for setting in TINY_SETTINGS if "MODEL" not in setting]
    monkeypatch.setattr(sys, "argv", [*command, f"--data={tmp_path / 'photos'}"])
    pruning.main()
    printed = capsys.readouterr().out
    last = printed.splitlines()[-1].split("is ")[1].split(",")[0]
    thin, thick = (store.load_generator(name)[0].count_params() for name in (last, "thick"))
    assert last.startswith("pruned-thick-") and thin < 0.8 * thick
    monkeypatch.setattr(runner.subprocess, "Popen", None)  # nothing is started
    pruning.main()
    assert capsys.readouterr().out.splitlines()[-1] == printed.splitlines()[-1]


def test_global_and_layerwise_ranking():
    worth = {"a": np.array([0.1, 0.2, 3, 3, 3, 3, 0.3, 3]), "b": np.array([1.0, 2, 1, 2, 1, 2, 1, 2])}
    kept = thinning.choose(worth, 3 / 16)
    assert list(kept["a"]) == [2, 3, 4, 5, 7] and len(kept["b"]) == 8
    kept = thinning.choose(worth, 0.25, "layers")
    assert list(kept["a"]) == [2, 3, 4, 5, 6, 7] and list(kept["b"]) == [0, 1, 2, 3, 5, 7]
    assert len(thinning.choose(worth, 0.9)["b"]) == thinning.LEAST


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["MODEL.widths=8 8"], "takes 5 numbers for 2 blocks and ×4"),
        (["MODEL.widths=8 8 x 8 8"], "numbers above zero"),
        (["MODEL.widths=8 8 0 8 8"], "numbers above zero"),
        (["MODEL.network=espcn", "MODEL.widths=8"], "is for srresnet"),
    ],
)
def test_widths_that_do_not_fit_are_refused(overrides, words):
    with pytest.raises(UserError, match=words):
        make_config(overrides=[*SMALL, *overrides])


def test_other_networks_are_not_pruned():
    with pytest.raises(UserError, match="only an srresnet"):
        thinning.groups_of(make_config(overrides=["MODEL.network=espcn"]).MODEL)


def study_of(gain):
    """The content of a pruning.json, by hand: at equal work the global ranking is `gain` dB better."""
    facts = {
        "srresnet_x4": {"work": 1000.0, "ms": 100.0, "psnr": {"Set5": 31.0, "Set14": 28.0}, "widths": ""},
        "srresnet_x4_fast": {"work": 500.0, "ms": 60.0, "psnr": {"Set5": 30.9, "Set14": 27.9}, "widths": "5 6 7 8"},
    }
    for ranking, more in (("global", gain), ("layers", 0)):
        for i, work in enumerate((800.0, 600.0), start=1):
            psnr = {"Set5": 31.0 - i / 10 + more, "Set14": 28.0 - i / 10 + more}
            facts[f"{ranking}-{i}"] = {"work": work, "ms": work / 10, "psnr": psnr, "widths": "5 6 7 8"}
    for name in pruning_page.OTHERS:
        facts[name] = {"work": 300.0, "ms": 30.0, "psnr": {"Set5": 30.0, "Set14": 27.0}}
    rounds = {
        ranking: [{"run": name, "widths": "", "work": facts[name]["work"], "psnr": 29.0} for name in names]
        for ranking, names in (
            ("global", ("srresnet_x4", "global-1", "global-2")),
            ("layers", ("srresnet_x4", "layers-1", "layers-2")),
        )
    }
    return {
        "weights": "srresnet_x4",
        "width": 64,
        "share": 0.05,
        "steps": 200,
        "batch": 16,
        "rounds": rounds,
        "finished": ["srresnet_x4_fast"],
        "networks": facts,
    }


def test_the_page(tmp_path):
    study = study_of(0.2)
    gains = pruning_page.gains_of(study)  # 0 at 1000, 0.2 at 800 and at 600: 0.15 on the mean
    assert gains == pytest.approx({"Set5": 0.15, "Set14": 0.15}, abs=0.003)
    page = pruning_page.page_of(study)
    assert "| 2 | 60% | 31.00 | 28.00 | 60% | 30.80 | 27.80 |" in page
    assert "+0.15 dB on Set5, +0.15 dB on Set14 on the mean from layer by layer: as claimed." in page
    assert "| srresnet_x4_fast | 50% | 60 | 30.90, 27.90 |" in page and "5 between the blocks, 6 within" in page
    assert "the contrary" in pruning_page.page_of(study_of(-0.3))
    pruning_page.draw(tmp_path / "pruning.png", study)
    assert utils.list_images(tmp_path) == [tmp_path / "pruning.png"]


@pytest.mark.slow
def test_work_and_times_of_other_networks():
    """ESPCN's multiply-adds per SR pixel by hand; the milliseconds are above zero."""
    networks = pruning_page.other_networks(4)
    assert pruning_page.work_of(networks["espcn"][0], 4) == pytest.approx(
        (25 * 64 + 9 * 64 * 32 + 9 * 32 * 16) / 16, rel=0.01
    )
    times = pruning_page.times_of({"espcn": networks["espcn"]})
    assert 0 < times["espcn"] < 5000
