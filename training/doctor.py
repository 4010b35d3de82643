"""The doctor looks at a run's numbers as it goes, and says in words, once a cause, what is wrong and what to try.

`measure` is part of the compiled step; `Doctor` is plain Python over the numbers that are logged anyway.
"""

import statistics
from collections import deque

from networks.losses import cells_of
from utils import LazyModule

tf = LazyModule("tensorflow")

PATIENCE = 5  # logged steps in a row that must show an ailment before it is named


def measure(fake, real, lr_01, scale):
    """{"colour_drift": [3], "checkerboard": [scale·scale, 3]} of a batch, in grey levels of 255.

    They are to be averaged over the replicas before `strengths` makes numbers of them.

    fake, real: SR and HR [batch, scale·h, scale·w, 3] in [-1, 1]; lr_01: [batch, h, w, 3] in [0, 1].

    colour_drift: how far the mean colour of SR, brought down to LR's size, is from LR's.
    checkerboard: the pattern that repeats in every scale×scale cell of SR - HR. What a network cannot know averages out
    over the cells; a grid does not.
    """
    drift = tf.reduce_mean((fake + 1) * 127.5, axis=(0, 1, 2)) - tf.reduce_mean(lr_01 * 255, axis=(0, 1, 2))
    pattern = tf.reduce_mean(cells_of((fake - real) * 127.5, scale), axis=(0, 1, 2))
    pattern -= tf.reduce_mean(pattern, axis=0)
    return {"colour_drift": drift, "checkerboard": pattern}


def strengths(values):
    """What `measure` gives, as scalars: the largest drift of the channels, the pattern's RMS."""
    return {
        "colour_drift": tf.reduce_max(tf.abs(values["colour_drift"])),
        "checkerboard": tf.sqrt(tf.reduce_mean(values["checkerboard"] ** 2)),
    }


def terms_of(values):
    """The loss terms among the values of a step: those whose gradient is logged beside them."""
    return [name for name in values if f"{name}_grad" in values]


FAINT = "tv_loss"  # the paper's weight of it, 2e-8, is this small
SCHEDULED = "recursion_loss"  # DRCN's: it and the pixel loss beside it are weak by turns, as they are meant to be


def weak_term(term):
    """An ailment of a loss term: its gradient is nothing beside the strongest one's."""

    def look(values):
        strongest = max(values[f"{name}_grad"] for name in terms_of(values))
        return values[f"{term}_grad"] <= 1e-4 * strongest

    return look


def stays_above(name, limit, of=min):
    """An ailment of a measure that starts large in an untrained network: it is above `limit` and no longer falls.

    of: what of the last logged values must be above it: the least, or their mean if it swings from batch to batch.
    """
    seen = deque(maxlen=4 * PATIENCE)

    def look(values):
        seen.append(values[name])
        half = len(seen) // 2
        fell = sum(list(seen)[half:]) < 0.8 * sum(list(seen)[:half])
        return len(seen) == seen.maxlen and of(seen) > limit and not fell

    return look


class Doctor:
    """Remarks on the numbers of a run.

    mode: "srresnet" or "srgan". `examine` is called with the values of each logged step.
    """

    def __init__(self, mode):
        self.mode, self.counts, self.ailments = mode, {}, None

    def known_ailments(self, values):
        """{cause: (whether it shows in some values, what to say)}."""
        ailments = {
            "colour_drift": (
                stays_above("colour_drift", 4.0),
                "colours drift: downscaled SR is off LR's mean colour by {colour_drift:.1f} grey levels; "
                "a smaller TRAIN.learning_rate, or TRAIN.clip_norm=1, keeps them",
            ),
            "checkerboard": (
                stays_above("checkerboard", 0.8, of=statistics.fmean),  # 0.2 to 0.4 if there is none
                "a grid appears: a pattern of {checkerboard:.1f} grey levels repeats in every cell of the upsampling; "
                "TRAIN.grid=20 is a loss on it, and TRAIN.ema=0.999 evens it out",
            ),
        }
        weighed = [term for term in terms_of(values) if term != FAINT and SCHEDULED not in values]
        for term in weighed:
            key = "VGG.layer" if term == "vgg_loss" else "TRAIN.loss"
            ailments[f"{term} dead"] = (
                weak_term(term),
                f"{term} is dead: its gradient at the generator's output is {{{term}_grad:.1e}}, nothing beside the "
                f"other terms'; look at its inputs and try another {key}",
            )
        if self.mode == "srgan":
            ailments["D won"] = (
                lambda values: values["d_real"] > 0.99 and values["d_fake"] < 0.01,
                "the discriminator has won: it calls real crops real at {d_real:.3f} and generated ones at "
                "{d_fake:.3f}, and teaches nothing any more; try TRAIN.d_rate=0.1 (its share of the generator's "
                "learning rate) or a longer SRResNet phase (TRAIN.init_steps)",
            )
            ailments["D lost"] = (
                lambda values: abs(values["d_real"] - values["d_fake"]) < 0.01,
                "the discriminator sees no difference: {d_real:.3f} for real crops and {d_fake:.3f} for generated "
                "ones; try TRAIN.d_rate=2 or TRAIN.beta1=0.5",
            )
        return ailments

    def examine(self, values):
        """Sentences on what has shown in PATIENCE logged steps in a row and was not said before.

        values: {name: float} of one logged step, as make_step of train.py gives them.
        """
        if self.ailments is None:
            self.ailments = self.known_ailments(values)
        remarks = []
        for cause, (shows, sentence) in self.ailments.items():
            self.counts[cause] = self.counts.get(cause, 0) + 1 if shows(values) else 0
            if self.counts[cause] >= PATIENCE:
                remarks.append(sentence.format(**values))
        # What was said is not looked for again.
        self.ailments = {cause: entry for cause, entry in self.ailments.items() if self.counts[cause] < PATIENCE}
        return remarks
