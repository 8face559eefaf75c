"""The trace of some steps: it waits for them, and says when there is none."""

import jax
import pytest

from hcjax.train import profiler


@pytest.fixture
def calls(monkeypatch):
    """What the profiler does, in order, without tracing."""
    found = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: found.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: found.append("stop"))
    monkeypatch.setattr(jax, "block_until_ready", found.append)
    return found


def test_a_trace_ends_when_its_last_step_is_computed(calls, tmp_path):
    step = 0
    with profiler.window(tmp_path, 3, 2, lambda: step) as profile:
        for step in range(9):
            profile(step)
    assert calls == [str(tmp_path / "profile"), 5, "stop"]


def test_a_run_that_ends_within_the_trace_is_waited_for(calls, tmp_path):
    with profiler.window(tmp_path, 3, 20, lambda: "last") as profile:
        profile(3)
    assert calls == [str(tmp_path / "profile"), "last", "stop"]


def test_an_error_within_the_trace_ends_it(calls, tmp_path):
    with pytest.raises(KeyError), profiler.window(tmp_path, 3, 20, lambda: "last") as profile:
        profile(3)
        raise KeyError
    assert calls[-1] == "stop"


def test_a_run_that_never_came_to_its_trace_says_so(calls, tmp_path):
    with (
        pytest.warns(UserWarning, match="no trace was written: it begins after step 10"),
        profiler.window(tmp_path, 10, 2, lambda: None) as profile,
    ):
        profile(0)
    assert calls == []


def test_without_a_trace_nothing_is_said(calls, tmp_path, recwarn):
    with profiler.window(tmp_path, 10, 0, lambda: None) as profile:
        profile(10)
    assert calls == [] and not recwarn.list
