"""What a run reports while it trains: progress bar, log.txt, metrics.jsonl and TensorBoard's events."""

import contextlib
import json
import math
import os
import signal
import sys
import time

from tqdm import tqdm

import utils
from runs import devices
from utils import LazyModule

tf = LazyModule("tensorflow")


def read_metrics(directory):
    """The lines of metrics.jsonl as dicts with a "step"; a line that is cut short is left out."""
    return Metrics(directory).lines()


class Metrics:
    """The metrics.jsonl of a run directory, which may grow: each call reads only the new lines."""

    def __init__(self, directory):
        self.path, self.file, self.end, self.known = directory / "metrics.jsonl", None, 0, []

    def lines(self):
        """The lines as read_metrics returns them."""
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_ino != self.file or status.st_size < self.end:  # --resume has replaced the file
                self.file, self.end, self.known = status.st_ino, 0, []
            file.seek(self.end)
            *whole, rest = file.read().split(b"\n")
        self.end += sum(len(line) + 1 for line in whole)
        self.known += [value for line in whole if (value := value_of(line))]
        last = value_of(rest)  # the last line's break may not be written yet
        return [*self.known, last] if last else list(self.known)


def value_of(line):
    """The dict of a line of metrics.jsonl, or None."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) and "step" in value else None


class Progress:
    """A progress bar with the loss terms, or without a terminal a line every half minute; measures seconds per step."""

    def __init__(self, first, steps):
        """first: the number of steps done before, 0 for a new run; steps: the number of the last one."""
        self.bar = tqdm(total=steps, initial=first, unit="step", smoothing=0.05, dynamic_ncols=True, disable=None)
        self.update, self.close = self.bar.update, self.bar.close
        self.first, self.steps, self.printed_at = first, steps, 0.0
        self.step, self.time = first, time.perf_counter()

    def show(self, step, values):
        """Show the losses among {name: float}; return the seconds per step since the last call, or since `restart`.

        Only reading crops and updates count: validation, logging and saving come before `restart`.
        """
        now = time.perf_counter()
        seconds = (now - self.time) / max(step - self.step, 1)
        self.step, self.time = step, now
        hidden = ("_grad", "colour_drift", "checkerboard")
        terms = {name: f"{value:.3g}" for name, value in values.items() if not name.endswith(hidden)}
        self.bar.set_postfix(terms, refresh=False)
        if self.bar.disable and (now - self.printed_at > 30 or step == self.steps):
            self.printed_at = now
            # The first step compiles: its time says nothing about the others.
            known = self.first + 1 < step < self.steps
            left = f"{(self.steps - step) * seconds / 60:.0f} min left, " if known else ""
            print(f"step {step}/{self.steps} {left}" + " ".join(f"{k}={v}" for k, v in terms.items()), flush=True)
        return seconds

    def reset(self, step):
        """Continue from another step."""
        self.bar.reset(self.steps)
        self.update(step)
        self.first = self.step = step
        self.time = time.perf_counter()

    def write(self, text):
        """Print a line above the bar."""
        self.bar.write(text)

    def restart(self):
        """Measure the next steps from now on: what was done since `show` does not count."""
        self.time = time.perf_counter()


class Tee:
    """A text stream that writes to another stream and, with the time before each line, to a file."""

    def __init__(self, stream, file):
        self.stream, self.file, self.at_start = stream, file, True

    def write(self, text):
        for line in text.splitlines(keepends=True):
            if self.at_start and line.strip():
                self.file.write(time.strftime("%Y-%m-%d %H:%M:%S  "))
            self.file.write(line)
            self.at_start = line.endswith("\n")
        self.file.flush()
        return self.stream.write(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


class Log:
    """The log of a run while it trains; a context manager. Inside, all that is printed also goes to log.txt.

    run: store.Run; step: the number of steps done before. Only the first worker writes files.
    Inside, Ctrl-C and SIGTERM set `asked_to_stop` and do nothing else, since an exception could interrupt an update or
    get lost in a library. A second one ends the program at once.
    """

    def __init__(self, run, step):
        self.run, self.writes = run, devices.is_chief()
        self.progress = Progress(step, run.config.TRAIN.steps)
        self.asked_to_stop = False

    def ask_to_stop(self, number, frame):
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True
        os.write(
            2, b"\nstopping after this update (a second time stops at once, without saving)\n"
        )  # print may be busy

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        for number in (signal.SIGINT, signal.SIGTERM):
            self.stack.callback(signal.signal, number, signal.signal(number, self.ask_to_stop))
        self.stack.callback(self.progress.close)
        if self.writes:
            path = self.run.directory / "log.txt"
            self.file = self.stack.enter_context(open(path, "a", encoding="utf-8", errors="backslashreplace"))
            self.stack.enter_context(contextlib.redirect_stdout(Tee(sys.stdout, self.file)))
            self.events = tf.summary.create_file_writer(str(self.run.directory / "tensorboard"))
            self.stack.callback(self.close_events)
        return self

    def __exit__(self, kind, error, trace):
        if error and self.writes:
            self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {kind.__name__}: {error}\n")
        self.stack.close()

    def close_events(self):
        with contextlib.suppress(tf.errors.OpError):  # for example a full disk, which was reported before
            self.events.close()

    def metrics(self, step, values):
        """Append {name: number} to metrics.jsonl, floats cut to six digits, null if not finite, and to TensorBoard."""
        if not self.writes:
            return
        line = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}
        # JSON has no infinity, to which gradients overflow in float16: null stands for it.
        finite = {key: value if math.isfinite(value) else None for key, value in line.items()}
        with open(self.run.directory / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
        with self.events.as_default():
            for name, value in line.items():
                tf.summary.scalar(name, value, step=step)
        self.events.flush()

    def picture(self, step, image):
        """Write a sample grid, uint8 [h, w, 3], to samples/<run>/ and to TensorBoard's events."""
        if not self.writes:
            return
        utils.write_image(self.run.samples / f"step_{step:07d}.png", image)
        with self.events.as_default():
            tf.summary.image("samples", image[None], step=step)
