import io
import re

import pytest

from hcjax.report import progress


class Clock:
    """Time that passes only when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _run(stream, clock, *, steps, seconds_per_step, **options):
    with progress.Progress(steps.stop - 1, stream=stream, clock=clock, **options) as bar:
        for step in steps:
            clock.now += seconds_per_step
            bar.update(step, loss=1 / step)


def test_plain_lines_come_at_most_every_so_often_and_once_at_the_end():
    stream, clock = io.StringIO(), Clock()
    _run(stream, clock, steps=range(1, 101), seconds_per_step=0.5, batch_size=10)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == [
        "20/100",
        "40/100",
        "60/100",
        "80/100",
        "100/100",
    ]
    # 80 steps to go at 2 steps and 20 images a second
    assert lines[0] == "step 20/100 (20 %)  ETA 0:40  loss 0.05  20 images/s"
    assert lines[-1] == "step 100/100 (100 %)  done in 50 s  loss 0.01  20 images/s"


def test_after_a_resume_only_this_process_counts_for_the_speed():
    stream, clock = io.StringIO(), Clock()
    steps = range(901, 1001)
    _run(stream, clock, steps=steps, seconds_per_step=1.0, initial=900, batch_size=1)
    first = stream.getvalue().splitlines()[0]
    assert first == "step 910/1000 (91 %)  ETA 1:30  loss 0.001099  1 images/s"


def test_the_first_step_which_compiles_counts_for_neither_speed_nor_eta():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(100, stream=stream, clock=clock, batch_size=100) as bar:
        clock.now += 30
        bar.update(1)
        clock.now += 10
        bar.update(11)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 1/100 (1 %)  ETA ?"
    assert lines[1] == "step 11/100 (11 %)  ETA 1:29  100 images/s"


def test_time_aside_counts_for_the_eta_but_not_for_the_speed():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(101, stream=stream, clock=clock, batch_size=100) as bar:
        bar.update(1)
        clock.now += 10
        with bar.aside():
            clock.now += 40
        bar.update(51)
    # 50 steps in 10 s of training; the other 50 will take 50 s with their evaluation
    assert stream.getvalue().splitlines()[0].endswith("ETA 0:50  500 images/s")


def test_steps_that_the_loop_is_ahead_of_the_device_do_not_count():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(
        1000, stream=stream, clock=clock, batch_size=100, every_seconds=1
    ) as bar:
        bar.update(1, finished=1)
        for step in range(2, 38):  # begun at once, and the device takes 0.4 s for one
            clock.now += 0.1
            bar.update(step, finished=1 + (step - 1) // 4)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "step 3/1000 (0 %)  ETA 9:08  250 images/s"  # two steps in 1.1 s
    assert lines[-2].startswith("step 9/1000 (0 %)  ETA 6:")  # 991 steps of little more than 0.4 s
    assert lines[-2].endswith("250 images/s")


def test_an_eta_is_not_shown_before_it_is_known():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(100, stream=stream, clock=clock, every_seconds=0.1) as bar:
        clock.now += 60  # compiles
        bar.update(1)
        for step, seconds in ((2, 0.2), (3, 0.2), (4, 1.0)):
            clock.now += seconds
            bar.update(step)
    etas = [line.split("ETA ")[1].split()[0] for line in stream.getvalue().splitlines()[:-1]]
    assert etas == ["?", "?", "?", "0:45"]  # 96 steps of 1.4 s / 3


def test_the_first_time_aside_which_compiles_does_not_count_once_there_is_another():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(301, stream=stream, clock=clock) as bar:
        bar.update(1)
        for step, seconds in ((101, 60), (201, 2)):
            clock.now += 100
            with bar.aside():
                clock.now += seconds
            bar.update(step)
    etas = [line.split("ETA ")[1].split()[0] for line in stream.getvalue().splitlines()[:-1]]
    assert etas == ["5:20", "1:42"]  # 200 steps as 100 in 160 s; then 100 steps in 102 s


def test_the_speed_is_that_of_the_last_seconds():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(10**6, stream=stream, clock=clock, every_seconds=10) as bar:
        bar.update(1)
        for step in (1001, 2001, 2011, 2021):
            clock.now += 10
            bar.update(step)
    shown = re.findall(r"([\d,]+) images/s", stream.getvalue())
    assert shown[:4] == ["100", "100", "1", "1"]


def test_the_speed_is_that_of_a_device_which_the_loop_runs_ahead_of():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(10**6, stream=stream, clock=clock, every_seconds=10) as bar:
        for step in range(1, 402):
            clock.now += 0.22
            if step % 50 == 1:  # its numbers are read
                clock.now += 11
            bar.update(step, finished=1 + int((clock.now - 111.22) / 0.44))
    shown = re.findall(r"([\d,.]+) images/s", stream.getvalue())
    assert len(shown) > 5 and {float(x) for x in shown} <= {2.2, 2.3}  # one in 0.44 s


def test_a_terminal_is_redrawn_ten_times_a_second_at_most():
    stream, clock = Terminal(), Clock()
    _run(stream, clock, steps=range(1, 1001), seconds_per_step=0.01, batch_size=1)
    drawn = stream.getvalue().count("ETA")
    assert 90 <= drawn <= 101  # 10 s
    assert "loss 0.001" in stream.getvalue()
    assert "done in 10 s" in stream.getvalue()


def test_a_terminal_that_cannot_redraw_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    _run(stream, Clock(), steps=range(1, 3), seconds_per_step=10, batch_size=1)
    assert "\r" not in stream.getvalue()
    assert stream.getvalue().count("\n") == 2


def test_a_note_stands_on_its_own_line():
    for stream in (io.StringIO(), Terminal()):
        with progress.Progress(2, stream=stream) as bar:
            bar.note("epoch 1: validation accuracy 98.00 %")
        assert re.search(r"(^|\r)epoch 1: validation accuracy 98.00 %\n", stream.getvalue())


def test_quiet_writes_nothing_and_reads_no_number():
    stream, clock = Terminal(), Clock()
    with progress.Progress(2, stream=stream, clock=clock, quiet=True) as bar:
        clock.now += 10
        bar.update(1, loss="not a number")
        bar.note("hidden")
        with bar.aside():
            pass
    assert stream.getvalue() == ""


def test_numbers_are_read_only_when_a_line_is_drawn():
    class Pending:
        reads = 0

        def __float__(self):
            Pending.reads += 1
            return 0.5

    with progress.Progress(1000, stream=io.StringIO(), clock=Clock()) as bar:
        for step in range(1, 1001):
            bar.update(step, loss=Pending())
        assert Pending.reads == 0
    assert Pending.reads == 1


def test_an_early_end_is_told_from_the_whole_run():
    stream, clock = io.StringIO(), Clock()
    with progress.Progress(100, stream=stream, clock=clock) as bar:
        bar.update(7)
    assert "step 7/100" in stream.getvalue()
    assert "stopped after" in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
@pytest.mark.parametrize("start", [1, 4])
def test_a_stream_that_breaks_does_not_end_the_training(kind, start):
    class Full(kind):
        def write(self, text):
            raise OSError(28, "No space left on device")

    closed, clock = kind(), Clock()
    if start == 1:
        closed.close()
    for stream in (Full(), closed):
        with progress.Progress(9, stream=stream, clock=clock) as bar:
            for step in range(1, 9):
                if step == start:
                    closed.close()
                clock.now += 10
                bar.update(step, loss=1.0)
                bar.note("still here")


def test_the_label_comes_first():
    stream = io.StringIO()
    with progress.Progress(2, stream=stream, label="seed 3"):
        pass
    assert stream.getvalue().startswith("seed 3 step 0/2 (0 %)  stopped after")
