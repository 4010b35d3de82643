"""What a run tells: metrics.jsonl, log.txt, TensorBoard's events, the bar."""

import io
import json
import os
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from config import make_config
from runs import logs
from runs.store import Run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("runs.store.PROJECT", tmp_path)
    (tmp_path / "a").mkdir()
    return Run(tmp_path / "a", "srresnet", "slides", make_config(overrides=["TRAIN.steps=10"]))


def test_metrics_survive_a_kill(run):
    with logs.Log(run, 0) as log:
        log.metrics(10, {"val_psnr_y": 20.123456789})
    with open(run.directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 20, "val_ps')
    assert logs.read_metrics(run.directory) == [{"step": 10, "val_psnr_y": 20.1235}]


def test_metrics_are_followed(run):
    """What is appended, a line that is half written, and a file that --resume has cut back and gone on with."""
    path, metrics = run.directory / "metrics.jsonl", logs.Metrics(run.directory)

    def steps():
        return [line["step"] for line in metrics.lines()]

    assert steps() == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert steps() == [1, 2] == steps()
    with open(path, "a") as file:
        file.write('ep": 3}')
    assert steps() == [1, 2, 3] == steps()
    with open(path, "a") as file:
        file.write('\nno line\n{"step": 4}\n')
    assert steps() == [1, 2, 3, 4]
    cut = run.directory / "cut"
    cut.write_text('{"step": 1}\n' + "".join(f'{{"step": {step}}}\n' for step in range(50, 60)))
    cut.replace(path)  # longer than before, and another file
    assert steps() == [1, *range(50, 60)]


def test_what_is_printed_is_logged_and_still_printed(run, capsys):
    before = sys.stdout
    with logs.Log(run, 0) as log:
        print("hello")
        log.progress.write("above the bar")
    with pytest.raises(ValueError), logs.Log(run, 5):
        raise ValueError("something broke")
    assert sys.stdout is before
    assert capsys.readouterr().out == "hello\nabove the bar\n"
    lines = (run.directory / "log.txt").read_text().splitlines()
    assert [line[21:] for line in lines] == ["hello", "above the bar", "ValueError: something broke"]


def test_a_log_takes_any_name_of_a_file(run, monkeypatch):
    """One that is not UTF-8, and letters that an old Windows has none of."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with logs.Log(run, 0):
        print("caf\udce9.png → 写真.png")
    assert (run.directory / "log.txt").read_text(encoding="utf-8")[21:] == "caf\\udce9.png → 写真.png\n"


def test_tensorboard_gets_scalars_and_pictures(run, rng):
    """Read back by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    grid = rng.integers(0, 256, (16, 24, 3), np.uint8)
    with logs.Log(run, 0) as log:
        log.metrics(3, {"mse_loss": 0.5})
        log.picture(3, grid)
    events = EventAccumulator(str(run.directory / "tensorboard"))
    events.Reload()
    assert events.Tags()["tensors"] == ["mse_loss", "samples"]
    assert [event.step for event in events.Tensors("mse_loss")] == [3]
    assert (run.samples / "step_0000003.png").exists()


def test_what_is_no_number_is_null(run):
    """A gradient that has overflown in float16 leaves a line that any reader of JSON takes."""
    with logs.Log(run, 0) as log:
        log.metrics(3, {"mse_loss": 0.5, "g_grad": float("inf"), "d_grad": float("nan"), "n": 2})

    def refuse(name):
        raise AssertionError(name)

    (line,) = (run.directory / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=refuse) == dict(step=3, mse_loss=0.5, g_grad=None, d_grad=None, n=2)


def test_seconds_a_step_leave_out_what_is_done_between(run, monkeypatch):
    clock = iter([0.0, 2.0, 102.0, 106.0])
    monkeypatch.setattr(logs.time, "perf_counter", lambda: next(clock))
    progress = logs.Progress(0, 10)
    assert progress.show(1, {}) == 2
    progress.restart()  # after 100 seconds of validating and saving
    assert progress.show(3, {}) == 2


def test_seconds_a_step_are_of_reading_and_updating_alone(run, monkeypatch):
    """In the loop of train.py: reading takes 1 second, an update 2, validating 100 and saving 50."""
    import train

    now, steps = [0.0], 4
    monkeypatch.setattr(logs.time, "perf_counter", lambda: now[0])

    def spend(seconds, value=None):
        now[0] += seconds
        return value

    monkeypatch.setattr(train, "validate", lambda *arguments: spend(100, {}))
    monkeypatch.setattr(train.doctor, "Doctor", lambda mode: SimpleNamespace(examine=lambda values: []))
    run.config.TRAIN.update(steps=steps, log_every=1, validate_every=2, save_every=2)
    crops = np.zeros((1, 4, 4, 3), np.uint8)
    batches = SimpleNamespace(
        stream=lambda first, *rest: (spend(1, (i, crops, crops)) for i in range(first, steps + 1))
    )
    state = SimpleNamespace(set_learning_rate=lambda *arguments: 1e-4, save=lambda run: spend(50))
    state.step = SimpleNamespace(numpy=lambda: 0)
    strategy = SimpleNamespace(num_replicas_in_sync=1)
    with logs.Log(run, 0) as log:
        assert train.loop(run, state, lambda *batch: spend(2, {"mse_loss": 1.0}), batches, None, strategy, log)
    assert [line["seconds_per_step"] for line in logs.read_metrics(run.directory)] == [3.0] * steps


def test_a_second_worker_writes_nothing(run, monkeypatch):
    monkeypatch.setattr("runs.devices.is_chief", lambda: False)
    with logs.Log(run, 0) as log:
        print("hello")
        log.metrics(1, {"mse_loss": 0.5})
        log.picture(1, np.zeros((8, 8, 3), np.uint8))
    assert not list(run.directory.iterdir()) and not run.samples.exists()


def test_without_a_terminal_a_line_every_half_minute(run, capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))  # each look at the clock is 20 s after the one before
    monkeypatch.setattr(logs.time, "perf_counter", lambda: float(next(clock)))
    progress = logs.Progress(0, 10)
    seconds = [progress.show(step, {"mse_loss": 0.25, "mse_loss_grad": 1.0}) for step in (1, 2, 3, 4)]
    lines = capsys.readouterr().out.splitlines()
    assert seconds == [20, 20, 20, 20]
    assert lines == ["step 2/10 3 min left, mse_loss=0.25", "step 4/10 2 min left, mse_loss=0.25"]


def test_a_first_signal_asks_and_a_second_ends(run):
    before = signal.getsignal(signal.SIGINT)
    with logs.Log(run, 0) as log:
        os.kill(os.getpid(), signal.SIGTERM)
        assert log.asked_to_stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
