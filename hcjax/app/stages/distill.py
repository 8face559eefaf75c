"""Stage `distill`: a smaller network, taught by the one that the stages begin with."""

from __future__ import annotations

from hcjax.app.stages.work import Outputs
from hcjax.errors import ConfigError


def stage(
    *, generations: int = 1, epochs: float | None = None, learning_rate: float | None = None
) -> Outputs:
    """Returns the student, trained on the labels and on the teacher's logits; and its students."""
    if generations < 1:
        raise ConfigError(f"config.distill.generations must be >= 1, got {generations}")
    options = {"epochs": epochs, "learning_rate": learning_rate}

    def again(name):
        return lambda work, start, before: work.learn(name, teacher=before, **options)

    # it starts anew: what the stage begins with is its teacher, or follows it
    first = [("student", lambda work, start, before: work.learn("student", **options))]
    later = [f"student-{n}" for n in range(2, generations + 1)]
    return first + [(name, again(name)) for name in later]
