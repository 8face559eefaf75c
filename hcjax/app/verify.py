"""`hcjax verify FILE.hcz ...`: what packed models and exports are worth, from their bytes alone.

In: files, and folders of exports. Out: one table of what each scores on its whole test set, what it
holds and how fast it is; for an export a table of its artifacts, each run in its own runtime. Exit
code 2 if one is damaged, missing or not as promised, after the others are scored.
"""

from __future__ import annotations

from absl import flags

from hcjax.app import checking, command, scoring
from hcjax.core import files
from hcjax.errors import HcjaxError
from hcjax.prove import cards
from hcjax.runs import saved

_USAGE = """Decodes packed models, or runs exports, and scores each on its whole test set.

  PROGRAM model.hcz                               bytes, accuracy, MACs, latency
  PROGRAM runs/lenet-1a2b3c4d                     every model of a workdir
  PROGRAM 'runs/*/*.hcz' --json=verified.json     the same numbers as JSON
  PROGRAM a.hcz --config=configs/resnet20.py      on the data of a config
  PROGRAM a.hcz --config.data.source=npz --config.data.path=new.npz
  PROGRAM exported                                every file of a folder of `hcjax export`

An export's files run in their own runtimes; what is not as its manifest promises is an error.

The data is that of --config, or what the file says it was trained on, or, for 28 x 28 grey images,
mnist; --config.data.KEY=VALUE changes it. Images are normalised as the file says.

Flags:"""


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line: 0, or 2 if a file is damaged or not to be scored.

    Args:
      argv: program name and arguments.
    """
    return command.run(argv, _USAGE, _define, _act)


def _define(values: flags.FlagValues) -> None:
    scoring.define(values)
    text = "Score exports on test data; --nodata runs their own examples only."
    flags.DEFINE_bool("data", True, text, flag_values=values)


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    """Scores every file, and says at the end which could not be."""
    folders, arguments = checking.separated(arguments)
    paths = saved.expanded(arguments)
    config = scoring.start(values, [*folders, *arguments], changes)
    scored, rows = [], []
    for folder in folders:
        how = {"timed": values.timed, "data": values.data}
        try:
            rows += checking.checked(folder, config, changes, **how)
        except HcjaxError as error:
            rows.append(scoring.problem(folder, folder.name, error))
    for path, name in zip(paths, saved.short(paths), strict=True):
        try:
            model, _ = saved.load_any(path)
            dataset = scoring.dataset_of(path, model, config, changes)
            card = scoring.card_of(path, model, dataset, name=name, timed=values.timed)
        except HcjaxError as error:
            rows.append(scoring.problem(path, name, error))
            continue
        scored.append(card)
        rows += [{"file": str(path), **row} for row in cards.as_json([card])]
    if scored:
        print(cards.table(scored, what="file"))
    code = command.named_problems(rows)
    if values.json:
        print(f"in {files.write_json(values.json, rows)}")
    return code
