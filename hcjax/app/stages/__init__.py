"""Stages of a pipeline: each is one file and one row of `STAGES`.

A stage takes its options, checks them, and returns named functions `(work, start, before) ->
Model`: of what all stages share, the Model that the stage begins with, and the one made before.
The last one's is what the next stage begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hcjax.app.stages.distill import distilled
from hcjax.app.stages.factorize import factorized
from hcjax.app.stages.prune import pruned
from hcjax.app.stages.quantize import quantized
from hcjax.app.stages.share import shared
from hcjax.app.stages.shrink import shrunk
from hcjax.app.stages.trim import trimmed
from hcjax.app.stages.work import Made, Work
from hcjax.errors import ConfigError

__all__ = ["STAGES", "Made", "Stage", "Work", "check_order", "check_sections", "sections"]

# forms of a network between stages -> why a stage that does not need it cannot take it
FORMS = {
    "kernels": "",
    "zeros": "makes new kernels, without the zeros",
    "codebooks": "reads kernels, not codebooks",
    "integers": "takes a network in float",
}


class Stage(NamedTuple):
    """One stage.

    function: `(**options) -> Made`. section: of the config, whose keys are its options; "" for
    none. needs: the `FORMS` that it can take. gives: the form of its network.
    """

    function: Callable[..., Made]
    section: str
    needs: tuple[str, ...] = ("kernels", "zeros")
    gives: str = "kernels"


# name -> stage; another one is one more row
STAGES: dict[str, Stage] = {
    "distill": Stage(distilled, "distill", needs=tuple(FORMS)),
    "factorize": Stage(factorized, "factorize", needs=("kernels",)),
    "prune": Stage(pruned, "prune", gives="zeros"),
    "quantize": Stage(
        quantized, "quantize", needs=("kernels", "zeros", "codebooks"), gives="integers"
    ),
    "share": Stage(shared, "share", gives="codebooks"),
    "shrink": Stage(shrunk, "shrink"),
    "trim": Stage(trimmed, ""),
}
# sections that a stage reads besides its own, and keys of its own that every training reads
_BESIDES = {"student": "distill"}
_TEACHING = ("loss", "weight", "temperature", "beside", "logits")


def sections() -> dict[str, str]:
    """Returns section of a config -> the stage that reads it."""
    return {stage.section: name for name, stage in STAGES.items() if stage.section} | _BESIDES


def check_sections(config: Mapping[str, Any]) -> None:
    """Raises ConfigError if a section has options for a stage that is not in `stages`.

    Args:
      config: as nested dicts.
    """
    for section, stage in sections().items():
        if stage in config["stages"]:
            continue
        for key, value in config.get(section, {}).items():
            if value is not None and not (section == "distill" and key in _TEACHING):
                raise ConfigError(
                    f"config.{section}.{key} is set, but `{stage}` is not in config.stages, "
                    f"{tuple(config['stages'])}: add it there, or unset the key"
                )


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
