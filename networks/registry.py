"""All networks that can be trained, one entry each.

To add a network, write its builder and an entry here: `--model NAME` trains it, and evaluation, upscaling, export and
`python model.py` know it. Nothing here imports TensorFlow.
"""

from collections.abc import Callable
from typing import NamedTuple

import model
from layers.projection import DEGRADATIONS, projected
from networks import baselines, patch, tensorlayer
from networks.colour import with_colour
from utils import LazyModule

keras = LazyModule("keras")
tf = LazyModule("tensorflow")


class Network(NamedTuple):
    """A generator that can be trained.

    build: (LR [batch, h, w, 3] in [0, 1], MODEL section, folded) → SR [batch, scale·h, scale·w, 3] in [-1, 1]; without
    batch norms if folded. Its layers must be of the kinds that networks/receptive.py knows.
    """

    build: Callable
    colour: str  # its input: "RGB" or "Y"
    source: str  # its paper or code
    settings: dict  # {"SECTION.key": value}: sizes, loss and training rule, where they differ from config.py's
    gan: bool = False  # whether --mode=srgan trains it
    matched: bool = False  # whether evaluate.py gives SR the histograms of LR


# The settings are those of the papers, if given there. SRCNN's and VDSR's rates of 1e-4 and 0.1 are for half the sum of
# squares; for the mean they are multiplied by 17²/2 (9-5-5 makes 17×17 pixels of a 33×33 crop) and 41²/2 = 840. Keras
# multiplies the weight decay by the rate, so VDSR's 1e-4 is divided by 840.
NO_SKIP = {"MODEL.skip": "none"}  # only the paper's network can have the bicubic skip
LUMA = NO_SKIP | {"TRAIN.loss": "luma", "TRAIN.ema": 0.0, "TRAIN.optimizer": "sgd"}
ESPCN = LUMA | {"TRAIN.learning_rate": 0.01, "TRAIN.last_layer_rate": 0.1, "DATA.crop": 64}

NETWORKS = {  # by the name that --model and MODEL.network take
    "srresnet": Network(
        model.generator,
        colour="RGB",
        source="Ledig et al., 2017: SRResNet, the generator of SRGAN",
        settings={},
        gan=True,
    ),
    "tensorlayer": Network(
        tensorlayer.generator,
        colour="RGB",
        source="the TensorLayer code of 2018",
        settings=NO_SKIP | {"MODEL.output": "tanh"},
        gan=True,
    ),
    "srcnn": Network(
        with_colour(baselines.srcnn),
        colour="Y",
        source="Dong et al., 2014: 9-5-5",
        settings=LUMA
        | {"TRAIN.learning_rate": 0.0145, "TRAIN.last_layer_rate": 0.1, "DATA.crop": 32, "TRAIN.batch": 128},
    ),
    "espcn": Network(
        with_colour(baselines.espcn),
        colour="Y",
        source="Shi et al., 2016",
        settings=ESPCN,
    ),
    "espcn-hr": Network(
        with_colour(baselines.espcn_hr),
        colour="Y",
        source="ESPCN in HR space with about equal work, for comparison",
        settings=ESPCN,
    ),
    "vdsr": Network(
        with_colour(baselines.vdsr),
        colour="Y",
        source="Kim et al., 2016",
        settings=LUMA
        | {"TRAIN.learning_rate": 84.0, "TRAIN.weight_decay": 1.2e-7, "TRAIN.clip_value": 1e-4}
        | {"DATA.crop": 48, "TRAIN.batch": 64, "MODEL.blocks": 18},
    ),
    "drcn": Network(
        with_colour(baselines.drcn),
        colour="Y",
        source="Kim et al., 2016",
        settings=LUMA | {"TRAIN.learning_rate": 0.01, "DATA.crop": 48, "TRAIN.batch": 64, "MODEL.width": 256},
    ),
    "johnson": Network(
        baselines.johnson,
        colour="RGB",
        source="Johnson et al., 2016",
        settings=NO_SKIP
        | {"TRAIN.loss": "feature", "VGG.layer": "conv2_2", "TRAIN.learning_rate": 1e-3, "TRAIN.steps": 200_000}
        | {"DATA.crop": 288, "TRAIN.batch": 4, "MODEL.blocks": 4, "MODEL.output": "tanh", "TRAIN.ema": 0.0},
        matched=True,
    ),
}

DISCRIMINATORS = {  # by MODEL.discriminator
    "paper": model.discriminator,
    "tensorlayer": tensorlayer.discriminator,
    "patch": patch.discriminator,
}


def build_generator(config, folded=False):
    """The generator that `config`, the MODEL section, describes; it takes any h and w.

    folded: without batch norms, for inference/compiled.py.

    This switches off TF32 for the whole process. In TF32 recent GPUs multiply float32 with only 10 bits, and the
    bicubic skip and the colours would be off by a grey level. Mixed precision, which `auto` chooses there, keeps its
    speed.
    """
    tf.config.experimental.enable_tensor_float_32_execution(False)
    lr_01 = keras.Input((None, None, 3), name="lr")
    sr = NETWORKS[config.network].build(lr_01, config, folded)
    if config.projection != "none":
        sr = projected(sr, lr_01, DEGRADATIONS[config.projection](config.scale))
    return keras.Model(lr_01, sr, name="generator")


def build_discriminator(config, crop):
    """The discriminator: images [batch, crop, crop, 3] in [-1, 1] to logits [batch, 1]; "patch": [batch, places].

    config: the MODEL section; crop: side of the HR crop in pixels.
    """
    image = keras.Input((crop, crop, 3), name="image")
    return keras.Model(image, DISCRIMINATORS[config.discriminator](image, config), name="discriminator")
