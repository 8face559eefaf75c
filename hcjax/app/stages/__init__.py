"""Stages of a pipeline: each is one file and one row of `STAGES`.

A stage takes its options, checks them, and returns named functions `(work, start, before) ->
Model`: of what all stages share, the Model that the stage begins with, and the one made before.
The last one's is what the next stage begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hcjax.app.stages import distill, factorize, prune, quantize, share, shrink, trim
from hcjax.app.stages.work import Outputs, Work
from hcjax.config import recipe
from hcjax.config.recipe import Recipe
from hcjax.core import registry
from hcjax.distill import TEACH
from hcjax.errors import ConfigError

__all__ = ["STAGES", "Outputs", "Stage", "Work", "advice", "check_order", "parse", "sections"]

# forms of a network between stages -> why a stage that does not need it cannot take it
FORMS = {
    "kernels": "",
    "zeros": "makes new kernels, without the zeros",
    "codebooks": "reads kernels, not codebooks",
    "integers": "takes a network in float",
}


class Stage(NamedTuple):
    """One stage.

    function: `(**options) -> Outputs`. section: of the config, whose keys are its options; "" for
    none. needs: the `FORMS` that it can take. gives: the form of its network. makes: first word of
    the names of its networks. advice: what to change where such a network is as good as guessing.
    """

    function: Callable[..., Outputs]
    section: str
    needs: tuple[str, ...] = ("kernels", "zeros")
    gives: str = "kernels"
    makes: str = ""
    advice: str = ""


# name -> stage; another one is one more row
STAGES: dict[str, Stage] = {
    "distill": Stage(
        distill.stage, "distill", needs=tuple(FORMS), makes="student", advice="a larger student"
    ),
    "factorize": Stage(
        factorize.stage, "factorize", needs=("kernels",), makes="factorized",
        advice="higher ranks (factorize.rank, energy or macs)",
    ),
    "prune": Stage(
        prune.stage, "prune", gives="zeros", makes="pruned",
        advice="a lower prune.sparsity, a longer prune.ramp",
    ),
    "quantize": Stage(
        quantize.stage, "quantize", needs=("kernels", "zeros", "codebooks"), gives="integers",
        makes="quantized", advice="more quantize.bits, more quantize.images to calibrate on",
    ),
    "share": Stage(
        share.stage, "share", gives="codebooks", makes="shared", advice="more share.clusters"
    ),
    "shrink": Stage(
        shrink.stage, "shrink", makes="shrunk",
        advice="fewer MACs removed (a higher shrink.macs or keep), more shrink.images to refit on",
    ),
    "trim": Stage(trim.stage, "", makes="trimmed", advice="less sparsity in the stage before"),
}  # fmt: skip


def parse(config: Any) -> Recipe:
    """Parses a config, its stages' options and order included.

    Args:
      config: see `configs/default.py`; ConfigDict or nested mappings.

    Raises:
      ConfigError: see `recipe.parse`; or if a stage has no such option, or gets a network in a form
        that it cannot take.
    """
    parsed = recipe.parse(config, sections())
    for name, options in parsed.stages.items():
        registry.check(f"stage '{name}'", STAGES[name].function, options)
    check_order(list(parsed.stages))
    if parsed.teaching and parsed.teaching.loss is not None:
        registry.choose("distill.loss", TEACH, parsed.teaching.loss)
    return parsed


def sections() -> dict[str, str]:
    """Returns name of a stage -> section of its options, "" for none."""
    return {name: stage.section for name, stage in STAGES.items()}


def advice(name: str, options: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what to change in a config where a network is as good as guessing.

    Args:
      name: of the network, e.g. "shrunk-trained".
      options: stage -> its options, of the config.

    Example:
      >>> advice("shared", {"share": {"epochs": 1.0}})
      'Training follows and may mend it; if not: more share.clusters, more share.epochs, another
      share.learning_rate'
    """
    # where a stage's networks have other names, e.g. one of the user's, the words are general
    stage = next((k for k in options if STAGES[k].makes and name.startswith(STAGES[k].makes)), None)
    if stage is None:
        return "Change: a milder stage, more epochs of training after it, another learning rate"
    words = [STAGES[stage].advice]
    if STAGES[stage].section and "epochs" in registry.legal(STAGES[stage].function):
        words += [f"more {stage}.epochs", f"another {stage}.learning_rate"]
    trained = (
        "-trained" in name or not options[stage].get("epochs") or stage in ("prune", "distill")
    )
    head = "Change: " if trained else "Training follows and may mend it; if not: "
    return head + ", ".join(word for word in words if word)


def check_order(names: Sequence[str], *, integers: str = "") -> None:
    """Raises ConfigError if a stage would get a network in a form that it cannot take.

    Args:
      names: of the stages, in order.
      integers: whose network the first stage gets, if it is in integers already; "" if not.
    """
    forms = {"integers": integers} if integers else {}
    for name in names:
        stage = STAGES[name]
        for form, giver in forms.items():
            if form in stage.needs:
                continue
            if form == "integers":
                raise ConfigError(
                    f"config.stages: '{name}' {FORMS[form]}, and that of {giver} is in integers: "
                    f"put '{name}' before it, or begin with a network in float"
                )
            raise ConfigError(
                f"config.stages: '{name}' {FORMS.get(form, f'cannot take {form}')}: put it before "
                f"'{giver}', which it follows"
            )
        if name == "distill":  # the student begins in float, whoever teaches
            forms = {}
        if stage.gives == "integers":
            forms = {"integers": f"stage '{name}'"}
        elif stage.gives != "kernels":
            forms = forms | {stage.gives: name}
