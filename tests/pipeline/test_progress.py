"""The line a minute that says how far a job is."""

import re

import pytest
from cluster import wait_for

from tandem_defense.pipeline import checkpoint, logs
from tandem_defense.pipeline.progress import WINDOW, Progress
from tandem_defense.training import each_epoch, generator


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def work(progress: Progress, clock: Clock, amount: int, seconds: float) -> None:
    """So many steps, each of so many seconds."""
    for _ in range(amount):
        clock.now += seconds
        progress(1)


def test_the_time_left_is_at_the_speed_of_the_last_minutes():
    """DIP₂'s steps are faster than DIP₁'s."""
    clock = Clock()
    progress = Progress(1000, "steps", clock)
    assert progress.left() is None
    work(progress, clock, 100, 20)
    assert (str(progress), progress.left()) == ("100 of 1000 steps (10 %)", 900 * 20)
    work(progress, clock, 400, 2)
    assert progress.left() == 500 * 2
    clock.now += 30  # within a step
    assert progress.left() == 500 * 2 - 30
    work(progress, clock, 500, 2)
    assert (str(progress), progress.left()) == ("1000 of 1000 steps (100 %)", 0)


def test_steps_may_take_longer_than_the_minutes_looked_at():
    clock = Clock()
    progress, hour = Progress(4, "images attacked", clock), 3600
    clock.now = hour
    assert progress.left() is None
    work(progress, clock, 2, hour)
    clock.now += (WINDOW + 1) * logs.MINUTE
    assert progress.left() == 2 * 1.5 * hour - (WINDOW + 1) * logs.MINUTE
    clock.now += 9 * hour
    assert progress.left() == 0


def test_a_job_that_goes_on_knows_the_speed_of_this_run_alone(tmp_path):
    clock, path = Clock(), tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt), checkpoint.kept(path, {}):
        progress = Progress(1000, "steps", clock)
        work(progress, clock, 600, 1)
        progress._part.save()
        raise KeyboardInterrupt
    with checkpoint.kept(path, {}):
        progress = Progress(1000, "steps", clock)
        for earlier in (250, 350):  # DIP₁'s, then DIP₂'s
            progress(earlier)
            assert progress.left() is None
        work(progress, clock, 10, 9)
        assert (str(progress), progress.left()) == ("610 of 1000 steps (61 %)", 390 * 9)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A job's log, whose minutes are short."""
    monkeypatch.setattr(logs, "MINUTE", 0.02)
    return tmp_path / "job.log"


def test_the_log_says_how_far_a_job_is_and_where_it_ended(log):
    with pytest.raises(ValueError), logs.capture(log):
        progress = Progress(3, "images attacked")
        wait_for(lambda: "0 of 3 images attacked (0 %), unknown time left" in said(log), "a line")
        progress(2)
        wait_for(lambda: re.search(r"2 of 3 .* \(66 %\), \d+ s left", said(log)), "another")
        raise ValueError("no more")
    end = r"2 of 3 images attacked \(66 %\), ended after .*\n.* root: failed\n"
    assert re.search(end, said(log))


def test_what_was_begun_last_is_followed(log):
    """A training has phases; a job without anything to count says nothing."""
    with logs.capture(log):
        for phase in ("encoder", "head"):
            rounds = each_epoch(phase, [], order=generator(0), count=6, epochs=2, batch_size=2)
            assert sum(len(list(batches)) for _, batches in rounds) == 6
    assert "6 of 6 steps of head (100 %), ended after" in said(log).splitlines()[-1]
    with logs.capture(log):
        pass
    assert said(log) == ""


def said(log) -> str:
    return log.read_text()
