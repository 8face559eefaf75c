"""Drift in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hcjax.monitor.drift import Drift, worst

_GAUGES = {
    "hcjax_drift_score": "Population stability index against the reference; above 0.2 is a change.",
    "hcjax_drift_p_value": "Of the chi-squared test of the same.",
    "hcjax_drift_p_value_of_all": "Of all features together; below 0.05 is a change.",
    "hcjax_drift_examples": "Of the window that is compared.",
}


def prometheus(found: Sequence[tuple[Mapping[str, str], Mapping[str, Drift]]]) -> str:
    """Writes drifts as gauges, labelled by feature and by what is given.

    Args:
      found: (labels, drift) of each network; labels: name -> value.

    Returns:
      str, lines in the exposition format, each metric's together; empty if there is none.

    Example:
      >>> one = Drift(0.5, None, None, 3.0, 0.01, 100)
      >>> print(prometheus([({"model": "a"}, {"class": one})]).splitlines()[2])
      hcjax_drift_score{model="a",feature="class"} 0.5
    """
    if not found:
        return ""
    rows: dict[str, list[str]] = {name: [] for name in _GAUGES}
    for labels, each in found:
        for feature, one in each.items():
            own = _labels({**labels, "feature": feature})
            rows["hcjax_drift_score"].append(f"{own} {one.psi!r}")
            rows["hcjax_drift_p_value"].append(f"{own} {one.chi2_p!r}")
        if each:
            own = _labels(labels)
            rows["hcjax_drift_p_value_of_all"].append(f"{own} {worst(each)[1]!r}")
            most = max(one.examples for one in each.values())
            rows["hcjax_drift_examples"].append(f"{own} {most}")
    lines = []
    for name, help in _GAUGES.items():
        lines += [f"# HELP {name} {help}", f"# TYPE {name} gauge"]
        lines += [f"{name}{row}" for row in rows[name]]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    inner = ",".join(f'{name}="{escaped(str(value))}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""
