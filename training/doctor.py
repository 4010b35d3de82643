"""The doctor watches a run's numbers and says in words, once for each cause, what is wrong and what to try.

`measure` is part of the compiled update. `Doctor` is plain Python and reads the logged numbers.
"""

import statistics
from collections import deque

from networks.losses import cells_of
from utils import LazyModule

tf = LazyModule("tensorflow")

PATIENCE = 5  # an ailment is reported after it shows in this many logged steps in a row


def measure(fake, real, lr_01, scale):
    """{"colour_drift": [3], "checkerboard": [scale·scale, 3]} of a batch, in grey levels of 255.

    fake, real: SR and HR [batch, scale·h, scale·w, 3] in [-1, 1]; lr_01: [batch, h, w, 3] in [0, 1].

    colour_drift: the mean colour of SR less LR's. checkerboard: the pattern that repeats in every scale×scale cell of
    SR - HR, as the mean over all cells: detail that the network misses averages out, a grid does not.
    With several replicas, average both over these before calling `strengths`.
    """
    drift = tf.reduce_mean((fake + 1) * 127.5, axis=(0, 1, 2)) - tf.reduce_mean(lr_01 * 255, axis=(0, 1, 2))
    pattern = tf.reduce_mean(cells_of((fake - real) * 127.5, scale), axis=(0, 1, 2))
    pattern -= tf.reduce_mean(pattern, axis=0)
    return {"colour_drift": drift, "checkerboard": pattern}


def strengths(values):
    """The result of `measure` as scalars: the largest drift among the channels, the RMS of the pattern."""
    return {
        "colour_drift": tf.reduce_max(tf.abs(values["colour_drift"])),
        "checkerboard": tf.sqrt(tf.reduce_mean(values["checkerboard"] ** 2)),
    }


def terms_of(values):
    """The names of the loss terms among the values of a step: a term's gradient is logged beside it."""
    return [name for name in values if f"{name}_grad" in values]


FAINT = "tv_loss"  # weak on purpose: the paper's weight for it is 2e-8
SCHEDULED = "recursion_loss"  # DRCN's: its weight falls to zero, and the pixel loss begins with weight zero


def weak_term(term):
    """An ailment of a loss term: its gradient is 10,000 times smaller than the strongest term's, or more."""

    def look(values):
        strongest = max(values[f"{name}_grad"] for name in terms_of(values))
        return values[f"{term}_grad"] <= 1e-4 * strongest

    return look


def stays_above(name, limit, of=min):
    """An ailment of a measure that is large in an untrained network: it is above `limit` and no longer falls.

    of: the function of the last logged values that must be above it: min, or mean for a measure that swings.
    """
    seen = deque(maxlen=4 * PATIENCE)

    def look(values):
        seen.append(values[name])
        half = len(seen) // 2
        fell = sum(list(seen)[half:]) < 0.8 * sum(list(seen)[:half])
        return len(seen) == seen.maxlen and of(seen) > limit and not fell

    return look


class Doctor:
    """Finds ailments in the numbers of a run: call `examine` with each logged step. mode: "srresnet" or "srgan"."""

    def __init__(self, mode):
        self.mode, self.counts, self.ailments = mode, {}, None

    def known_ailments(self, values):
        """{cause: (function that tells whether it shows in the values of a step, what to say)}."""
        ailments = {
            "colour_drift": (
                stays_above("colour_drift", 4.0),
                "colours drift: the mean colour of SR is {colour_drift:.1f} grey levels off LR's; "
                "try a smaller TRAIN.learning_rate, or TRAIN.clip_norm=1",
            ),
            "checkerboard": (
                stays_above("checkerboard", 0.8, of=statistics.fmean),  # 0.2 to 0.4 if there is none
                "a grid appears: a pattern of {checkerboard:.1f} grey levels repeats in every cell of the upsampling; "
                "try TRAIN.grid=20, a loss against it, or TRAIN.ema=0.999, which evens it out",
            ),
        }
        weighed = [term for term in terms_of(values) if term != FAINT and SCHEDULED not in values]
        for term in weighed:
            key = "VGG.layer" if term == "vgg_loss" else "TRAIN.loss"
            ailments[f"{term} dead"] = (
                weak_term(term),
                f"{term} is dead: its gradient at the generator's output is {{{term}_grad:.1e}}, far below the other "
                f"terms'; check its inputs and try another {key}",
            )
        if self.mode == "srgan":
            ailments["D won"] = (
                lambda values: values["d_real"] > 0.99 and values["d_fake"] < 0.01,
                "the discriminator has won: it calls real crops real at {d_real:.3f} and generated ones at "
                "{d_fake:.3f}, and teaches the generator nothing; try TRAIN.d_rate=0.1 (its share of the generator's "
                "learning rate) or a longer SRResNet phase (TRAIN.init_steps)",
            )
            ailments["D lost"] = (
                lambda values: abs(values["d_real"] - values["d_fake"]) < 0.01,
                "the discriminator sees no difference: {d_real:.3f} for real crops and {d_fake:.3f} for generated "
                "ones; try TRAIN.d_rate=2 or TRAIN.beta1=0.5",
            )
        return ailments

    def examine(self, values):
        """[sentence] on each ailment that has now shown in PATIENCE logged steps in a row; each is reported once.

        values: {name: float} of one logged step, as train.make_step's function returns them.
        """
        if self.ailments is None:
            self.ailments = self.known_ailments(values)
        remarks = []
        for cause, (shows, sentence) in self.ailments.items():
            self.counts[cause] = self.counts.get(cause, 0) + 1 if shows(values) else 0
            if self.counts[cause] >= PATIENCE:
                remarks.append(sentence.format(**values))
        # An ailment that was reported is not looked for again.
        self.ailments = {cause: entry for cause, entry in self.ailments.items() if self.counts[cause] < PATIENCE}
        return remarks
