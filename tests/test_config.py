import math

import pytest

from config import (
    CHOICES,
    DEFAULTS,
    PRESETS,
    SETTINGS,
    check_config,
    learning_rate_at,
    make_config,
    make_init_config,
)
from networks.registry import NETWORKS
from utils import UserError


def test_each_setting_is_one_row():
    """Its default is allowed by its own row, a value of another type is not, and it says why it is there."""
    check_config(DEFAULTS)
    for section, rows in SETTINGS.items():
        assert list(DEFAULTS[section]) == list(rows)
        for key, row in rows.items():
            name = f"{section}.{key}"
            assert DEFAULTS[section][key] == row.default and len(row.why) > 5
            wrong = "nonsense" if name in CHOICES or isinstance(row.default, str) else "-1"
            with pytest.raises(UserError, match=name):
                make_config("srgan", overrides=[f"{name}={wrong}"])


def test_papers_settings():
    """Section 3.2: 16 crops of 96×96, Adam with β1 0.9 at 1e-4, 1e6 updates; SRGAN 1e5 at 1e-4 and 1e5 at 1e-5."""
    srresnet, srgan = make_config("srresnet"), make_config("srgan")
    assert (srresnet.TRAIN.batch, srresnet.DATA.crop, srresnet.TRAIN.beta1) == (16, 96, 0.9)
    assert srresnet.TRAIN.steps == 1_000_000
    assert learning_rate_at(1, srresnet.TRAIN) == learning_rate_at(1_000_000, srresnet.TRAIN) == 1e-4
    assert srgan.TRAIN.steps == 200_000
    assert learning_rate_at(100_000, srgan.TRAIN) == 1e-4
    assert learning_rate_at(100_001, srgan.TRAIN) == pytest.approx(1e-5)


def test_presets():
    assert make_config("srgan", "slides").VGG.layer == make_config("srgan").VGG.layer == "pool4"
    assert make_config("srgan", "paper") == make_config("srgan", "srgan-vgg54")
    assert make_config("srgan", "paper").VGG.layer == "conv5_4"
    with pytest.raises(UserError, match="the preset srgan-vgg22 is for --mode=srgan, not for srresnet"):
        make_config("srresnet", "srgan-vgg22")
    older = make_config("srgan", "tensorlayer")
    assert (older.MODEL.network, older.MODEL.discriminator, older.MODEL.output) == (
        "tensorlayer",
        "tensorlayer",
        "tanh",
    )
    assert (older.DATA.crop, older.VGG.resize, older.TRAIN.steps, older.TRAIN.loss) == (384, 224, 100_000, "slides")


def test_a_network_brings_its_own_settings():
    """What is said by hand comes last; what does not go together is refused."""
    espcn = make_config(overrides=["MODEL.network=espcn", "TRAIN.learning_rate=0.5"])
    assert (espcn.TRAIN.loss, espcn.TRAIN.optimizer, espcn.TRAIN.learning_rate) == ("luma", "sgd", 0.5)
    for mode, preset, override, words in (
        ("srgan", "default", "MODEL.network=espcn", "espcn has no GAN"),
        ("srresnet", "slides", "MODEL.network=vdsr", "vdsr has its own settings"),
        ("srresnet", "srresnet-vgg22", "MODEL.network=vdsr", "vdsr has its own settings"),
        ("srresnet", "slides", "TRAIN.loss=slides", "TRAIN.loss=slides is for --mode=srgan"),
        ("srresnet", "default", "TRAIN.shift=true", "this run has neither"),
        ("srresnet", "default", "TRAIN.relativistic=true", "needs a discriminator"),
        ("srgan", "default", "VGG.before_relu=true", "needs a convolution"),
        ("srgan", "default", "TRAIN.loss=luma", "srresnet would learn no colours"),
        ("srresnet", "default", "MODEL.network=unet", "not 'unet'"),
        ("srresnet", "default", "TRAIN.last_layer_rate=0.5", "works with TRAIN.optimizer=sgd"),
    ):
        with pytest.raises(UserError, match=words):
            make_config(mode, preset, [override])
    for overrides in (["MODEL.network=espcn", "MODEL.upsampler=deconv"], ["MODEL.upsampler=resize"]):
        with pytest.raises(UserError, match="upsampler"):
            make_config(overrides=[*overrides, "MODEL.upsampler_init=random"])
    with pytest.raises(UserError, match="MODEL.skip is for srresnet, not for espcn"):
        make_config(overrides=["MODEL.network=espcn", "MODEL.skip=bicubic"])


def test_rates_of_the_papers_are_those_of_the_mean():
    """SRCNN's and VDSR's were for half the sum over an output; VDSR's decay comes with its rate."""
    srcnn, vdsr = (make_config(overrides=[f"MODEL.network={name}"]).TRAIN for name in ("srcnn", "vdsr"))
    assert (
        srcnn.learning_rate == pytest.approx(1e-4 * (33 - 8 - 4 - 4) ** 2 / 2, rel=0.01)
        and srcnn.last_layer_rate == 0.1
    )
    assert vdsr.learning_rate == pytest.approx(0.1 * 41**2 / 2, rel=0.01) and vdsr.batch == 64
    assert vdsr.learning_rate * vdsr.weight_decay == pytest.approx(0.1 * 1e-4, rel=0.01)
    assert (srcnn.optimizer, vdsr.optimizer, vdsr.beta1, vdsr.clip_value) == ("sgd", "sgd", 0.9, 1e-4)


def differences(config, other):
    """{"SECTION.key": (value, the other's)} of all settings in which two configurations differ."""
    names = [(section, key) for section in config for key in config[section]]
    pairs = {f"{section}.{key}": (config[section][key], other[section][key]) for section, key in names}
    return {name: (ours, theirs) for name, (ours, theirs) in pairs.items() if ours != theirs}


def test_the_presets_default_and_slides_differ_in_the_skip_and_the_moving_views():
    """The slides' preset, as those of Table 1, has the paper's network to the letter."""
    skip, shift = {"MODEL.skip": ("bicubic", "none")}, {"TRAIN.shift": (True, False)}
    assert differences(make_config("srresnet", "default"), make_config("srresnet", "slides")) == skip
    assert differences(make_config("srgan", "default"), make_config("srgan", "slides")) == skip | shift
    for mode in ("srresnet", "srgan"):
        assert make_config(mode) == make_config(mode, "default")
    papers = [make_config(mode, preset) for preset in PRESETS if preset != "default" for mode in PRESETS[preset]]
    assert {(config.MODEL.skip, config.TRAIN.shift) for config in papers} == {("none", False)}
    assert [make_config(mode, "slides").TRAIN.loss for mode in ("srresnet", "srgan")] == ["mse", "slides"]
    networks = [make_config(overrides=[f"MODEL.network={name}"]).MODEL for name in NETWORKS]
    assert [model.network for model in networks if model.skip != "none"] == ["srresnet"]


def test_defaults_are_not_changed_by_overrides():
    make_config(overrides=["MODEL.blocks=3"])
    assert DEFAULTS.MODEL.blocks == make_config().MODEL.blocks == 16


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("TRAIN.steps=1e3", 1000),
        ("TRAIN.learning_rate=1", 1.0),
        ("TRAIN.xla=false", False),
        ("MODEL.output=tanh", "tanh"),
    ],
)
def test_values_are_read_by_the_defaults_type(override, value):
    section, key = override.split("=")[0].split(".")
    found = make_config(overrides=[override])[section][key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("MODEL.blokcs=3", "did you mean MODEL.blocks"),
        ("MODEL.blocks", "SECTION.key=value"),
        ("MODEL.blocks=many", "whole number"),
        ("MODEL.blocks=1.5", "whole number"),
        ("MODEL.scale=3", "2, 4, 8"),
        ("DATA.cache=tape", "auto, ram, disk, none"),
        ("TRAIN.steps=0", "above zero"),
        ("TRAIN.learning_rate=1e999", "below 2"),
        ("TRAIN.xla=1", "true or false"),
        ("TRAIN.decay_at=2", "at most 1"),
        ("DATA.crop=40", "multiple of 16"),
        ("DATA.detail=1.1", "zero or more and at most 1"),
        ("TRAIN.ema=1", "below 1"),
        ("VGG.resize=31", "0 or at least 32"),
        ("TRAIN.seed=-1", "zero or more"),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(UserError, match=words):
        make_config(overrides=[override])


INIT_OF_A_GAN = {  # {"SECTION.key": (the GAN's value, that of the SRResNet run before it)}
    "TRAIN.steps": (200_000, 5_000),
    "TRAIN.learning_rate": (1e-4, 1e-3),
    "TRAIN.schedule": ("step", "cosine"),
}


@pytest.mark.parametrize(
    ("preset", "more"),
    [
        ("default", {"TRAIN.loss": ("slides", "mse"), "TRAIN.shift": (True, False)}),
        ("slides", {"TRAIN.loss": ("slides", "mse")}),
        ("srgan-mse", {}),
        ("srgan-vgg54", {"TRAIN.loss": ("vgg", "mse")}),
        ("tensorlayer", {"TRAIN.steps": (100_000, 5_000), "TRAIN.loss": ("slides", "mse")}),
    ],
)
def test_the_srresnet_run_before_a_gan(preset, more):
    """It differs from the GAN in these values and no other."""
    config = make_config("srgan", preset)
    init_config = make_init_config(config, [])
    assert differences(config, init_config) == INIT_OF_A_GAN | more
    assert config == make_config("srgan", preset)  # which it leaves alone


def test_what_is_said_by_hand_of_a_gan_holds_for_the_run_before_it():
    """But for what belongs to the GAN: its losses and views, and statistics that are frozen."""
    shared = ["MODEL.blocks=3", "DATA.crop=64", "DATA.detail=0.5", "TRAIN.batch=4", "TRAIN.seed=7", "TRAIN.xla=false"]
    gans = ["TRAIN.grid=20", "TRAIN.total_variation=1e-8", "TRAIN.batch_norm=frozen", "TRAIN.learning_rate=2e-4"]
    overrides = [*shared, *gans, "TRAIN.steps=300"]
    init_config = make_init_config(make_config("srgan", overrides=overrides), overrides)
    ours = {name: values[1] for name, values in differences(make_config("srgan"), init_config).items()}
    assert ours == {
        "MODEL.blocks": 3,
        "DATA.crop": 64,
        "DATA.detail": 0.5,
        "TRAIN.batch": 4,
        "TRAIN.seed": 7,
        "TRAIN.xla": False,
        "TRAIN.steps": 300,  # a short GAN has a short start …
        "TRAIN.learning_rate": 1e-3,
        "TRAIN.schedule": "cosine",
        "TRAIN.loss": "mse",
        "TRAIN.shift": False,
    }
    overrides += ["TRAIN.init_steps=400"]
    assert make_init_config(make_config("srgan", overrides=overrides), overrides).TRAIN.steps == 400  # … unless told


def test_cosine_schedule():
    train = make_config(
        overrides=["TRAIN.schedule=cosine", "TRAIN.steps=1000", "TRAIN.warmup=0.1", "TRAIN.learning_rate=1e-3"]
    ).TRAIN
    rates = [learning_rate_at(step, train) for step in range(1, 1001)]
    assert rates[49] == pytest.approx(0.5e-3)
    assert max(rates) == rates[99] == pytest.approx(1e-3)
    assert rates[549] == pytest.approx(1e-3 * 0.5 * (1 + math.cos(math.pi * 450 / 901)))
    assert 0 < rates[-1] < 1e-8
    assert all(a > b for a, b in zip(rates[99:], rates[100:], strict=False))
