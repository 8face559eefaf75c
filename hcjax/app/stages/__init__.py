"""Stages of a pipeline: each is one file and one row of `STAGES`.

A stage takes its options, checks them, and returns named functions `(work, start, before) ->
Model`: of what all stages share, the Model that the stage begins with, and the one made before.
The last one's is what the next stage begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hcjax.app.stages import distill, factorize, prune, quantize, share, shrink, trim
from hcjax.app.stages.work import Outputs, Work
from hcjax.config import recipe
from hcjax.config.recipe import Recipe
from hcjax.core import registry
from hcjax.distill import TEACH
from hcjax.errors import ConfigError

__all__ = ["STAGES", "Outputs", "Stage", "Work", "check_order", "parse", "sections"]

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
    none. needs: the `FORMS` that it can take. gives: the form of its network.
    """

    function: Callable[..., Outputs]
    section: str
    needs: tuple[str, ...] = ("kernels", "zeros")
    gives: str = "kernels"


# name -> stage; another one is one more row
STAGES: dict[str, Stage] = {
    "distill": Stage(distill.stage, "distill", needs=tuple(FORMS)),
    "factorize": Stage(factorize.stage, "factorize", needs=("kernels",)),
    "prune": Stage(prune.stage, "prune", gives="zeros"),
    "quantize": Stage(
        quantize.stage, "quantize", needs=("kernels", "zeros", "codebooks"), gives="integers"
    ),
    "share": Stage(share.stage, "share", gives="codebooks"),
    "shrink": Stage(shrink.stage, "shrink"),
    "trim": Stage(trim.stage, ""),
}


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
    if parsed.teaching:
        registry.choose("distill.loss", TEACH, parsed.teaching.loss)
    return parsed


def sections() -> dict[str, str]:
    """Returns name of a stage -> section of its options, "" for none."""
    return {name: stage.section for name, stage in STAGES.items()}


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
