"""`hcjax compare A B ...`: trained and compressed models side by side, on one test set.

In: workdirs and `.hcz` files, the first the baseline. Out: one table, what each of the others
answers otherwise, a picture of error against bytes, and the same as JSON; exit code 2 if one of
the others is damaged or missing, after the rest is compared.
"""

from __future__ import annotations

from absl import flags

from hcjax.app import command, scoring
from hcjax.core import files
from hcjax.errors import ConfigError, HcjaxError
from hcjax.prove import alive, cards, flips
from hcjax.report import canvas
from hcjax.report.pareto import draw_pareto
from hcjax.runs import saved

_USAGE = """Compares models on one test set; the first is the baseline.

  PROGRAM runs/lenet-1a2b3c4d pruned.hcz int8.hcz
  PROGRAM runs/lenet_compress-5e6f7a8b           a run and the files in its folder
  PROGRAM a.hcz 'b/*.hcz' --plot=pareto.png --json=compared.json

bits/weight is 8 x file bytes / weights of the baseline, ratio 32 / bits/weight: those weights as
float32 against the file. The difference in accuracy stands with its standard error, paired by
examples. The data is that of --config or of the baseline; --config.data.KEY=VALUE changes it.

Flags:"""


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line.

    Args:
      argv: program name and arguments.
    """
    return command.run(argv, _USAGE, _define, _act)


def _define(values: flags.FlagValues) -> None:
    scoring.define(values)
    text = "PNG that error against bytes is drawn to."
    flags.DEFINE_string("plot", None, text, flag_values=values)


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    """Scores all models on the first one's data, and says where they differ."""
    paths = saved.expanded(arguments)
    config = scoring.start(values, arguments, changes)
    if len(paths) < 2:
        raise ConfigError(f"{paths[0]} is one model: name at least two (see --help)")
    scored: list[cards.Scorecard] = []
    rows: list[dict] = []
    for path, name in zip(paths, saved.short(paths), strict=True):
        try:
            model, _ = saved.load_any(path)
            if not scored:
                dataset = scoring.dataset_of(path, model, config, changes)
            about = {"name": name, "baseline": scored[0] if scored else None, "timed": values.timed}
            card = scoring.card_of(path, model, dataset, **about)
        except HcjaxError as error:
            if not scored:  # nothing to compare the others with
                raise
            rows.append(scoring.problem(path, name, error))
            continue
        scored.append(card)
        rows += [{"file": str(path), **row} for row in cards.as_json([card])]
    best = max(card.accuracy for card in scored)
    labels = all(card.score == "accuracy" for card in scored)
    dead = [
        i for i, card in enumerate(scored)
        if labels and alive.dead(card.accuracy, best, card.labels, dataset.num_classes)
    ]  # fmt: skip
    sound = [row for row in rows if "problem" not in row]
    for i in dead:
        sound[i]["dead"] = True
    print(cards.table(sound, what="model"))
    code = command.named_problems(rows)
    differences = [flips.changes(scored[0], card, dataset) for card in scored[1:] if labels]
    for one in differences:
        print(f"\n{one}")
    if values.plot:
        points = [(card.name, card.file_bytes, card.error) for card in scored]
        print(
            f"in {canvas.save(draw_pareto(points, dead=dead, score=scored[0].score), values.plot)}"
        )
    if values.json:
        content = {"stages": rows, "changes": [one.as_json() for one in differences]}
        print(f"in {files.write_json(values.json, content)}")
    return code
