"""`hcjax verify FILE.hcz ...`: what packed models are worth, from their bytes alone.

In: files. Out: one table of what each scores on its whole test set, what it holds and how fast it
is; exit code 2 if one of them is damaged or missing, after the others are scored.
"""

from __future__ import annotations

from hcjax.app import command, scoring
from hcjax.core import files
from hcjax.errors import HcjaxError
from hcjax.prove import cards
from hcjax.runs import saved

_USAGE = """Decodes packed models and scores each on its whole test set.

  PROGRAM model.hcz                               bytes, accuracy, MACs, latency
  PROGRAM runs/lenet-1a2b3c4d                     every model of a workdir
  PROGRAM 'runs/*/*.hcz' --json=verified.json     the same numbers as JSON
  PROGRAM a.hcz --config=configs/resnet20.py      on the data of a config
  PROGRAM a.hcz --config.data.source=npz --config.data.path=new.npz

The data is that of --config, or what the file says it was trained on, or, for 28 x 28 grey images,
mnist; --config.data.KEY=VALUE changes it. Images are normalised as the file says.

Flags:"""


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line: 0, or 2 if a file is damaged or not to be scored.

    Args:
      argv: program name and arguments.
    """
    return command.run(argv, _USAGE, scoring.define, _act)


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    """Scores every file, and says at the end which could not be."""
    paths = saved.expanded(arguments)
    config = scoring.start(values, arguments, changes)
    scored, rows = [], []
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
