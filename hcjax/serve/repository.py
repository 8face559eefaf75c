"""The networks that a server holds: loaded from files, and switched at once when a file changes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hcjax.accelerate.compiler import jit
from hcjax.core import brief
from hcjax.errors import ConfigError, HcjaxError
from hcjax.export.hcz import pack
from hcjax.graph.model import Model
from hcjax.serve.batching import Batcher
from hcjax.serve.engines import integers, make_engine
from hcjax.serve.explain import explainer
from hcjax.serve.limits import Limits, RequestError
from hcjax.serve.logs import LOG
from hcjax.serve.metrics import Metrics, Predictions
from hcjax.serve.place import Place
from hcjax.serve.signature import Signature, signature
from hcjax.serve.watch import Watch

Load = Callable[[Path], tuple[Model, dict[str, Any]]]


class Served(NamedTuple):
    """A network that is ready to answer."""

    place: Place
    model: Model
    about: dict[str, Any]
    engine: str
    takes: Signature
    batcher: Batcher
    predictions: Predictions
    watch: Watch | None
    latency: Any
    explain: Callable | None
    facts: dict[str, Any]
    stamp: Any

    __repr__ = brief.record


class Repository:
    """All networks of a server.

    Args:
      places: where they come from. load: returns the Model of a path, and what is known of it, as
        `hcjax.load_any` does. engine: in `ENGINES`, or "auto". limits, metrics: of the server.
    """

    def __init__(
        self, places: Sequence[Place], load: Load, engine: str, limits: Limits, metrics: Metrics
    ):
        self._places = {(place.name, place.version): place for place in places}
        if len(self._places) < len(places):
            raise ConfigError("two networks have the same name and version: give NAME:VERSION=PATH")
        self._load, self._engine = load, engine
        self._limits, self._metrics = limits, metrics
        self._served: dict[str, dict[str, Served]] = {}
        self._failed: dict[Place, Any] = {}  # files that could not be loaded, as they were then
        self._loading = asyncio.Lock()

    def load_all(self) -> None:
        """Loads every network; raises HcjaxError if one cannot be."""
        for place in self._places.values():
            self._put(self._loaded(place))

    def get(self, name: str, version: str | None = None) -> Served:
        """Returns a network, by default of its greatest version; RequestError 404 if none."""
        versions = self._served.get(name)
        if versions is None:
            known = ", ".join(self._served)
            raise RequestError(f"the networks are named {known}; found {name[:80]!r}", 404)
        if version is None:
            return versions[max(versions, key=int)]
        if version not in versions:
            known = ", ".join(versions)
            raise RequestError(f"{name} has the versions {known}; found {version[:80]!r}", 404)
        return versions[version]

    def all(self) -> list[Served]:
        """Returns all networks, in the order in which they were named."""
        return [served for versions in self._served.values() for served in versions.values()]

    def versions(self, name: str) -> list[str]:
        """Returns the versions of a network."""
        return list(self._served[name])

    async def reload(self, name: str) -> list[Served]:
        """Loads all versions of a network again; each replaces what it was once it is warm.

        Requests that were accepted before are computed by what they were accepted for.

        Raises:
          RequestError: 404 if there is none of the name, 400 if a file cannot be loaded; then
            what was there goes on.
        """
        self.get(name)
        return [await self._switch(p) for p in self._places.values() if p.name == name]

    async def reload_changed(self) -> list[tuple[Place, str | None]]:
        """Loads the networks whose files changed; returns each with what went wrong, or None."""
        found = []
        for place in self._places.values():
            now = stamp(place.path)
            served = self._served[place.name][place.version]
            if now is None or now in (served.stamp, self._failed.get(place)):
                continue
            try:
                await self._switch(place)
                found.append((place, None))
            except RequestError as error:
                self._failed[place] = now
                found.append((place, str(error)))
        return found

    async def close(self) -> None:
        """Waits until all that was accepted is computed."""
        for served in self.all():
            await served.batcher.close()

    async def _switch(self, place: Place) -> Served:
        was = self.get(place.name, place.version)
        async with self._loading:
            now = self.get(place.name, place.version)
            if now is not was and now.stamp == stamp(place.path):
                return now  # it was loaded while this waited
            try:
                loop = asyncio.get_running_loop()
                served = await loop.run_in_executor(None, self._loaded, place)
            except Exception as error:  # whatever it is, the network that is there goes on
                if not isinstance(error, HcjaxError | OSError):
                    LOG.exception("a network cannot be loaded")
                raise RequestError(f"{place.name} cannot be loaded: {error}") from error
            before = self._put(served)
            if before is not None:
                await before.batcher.close()
            return served

    def _put(self, served: Served) -> Served | None:
        versions = self._served.setdefault(served.place.name, {})
        before = versions.get(served.place.version)
        versions[served.place.version] = served
        watches, key = self._metrics.watches, (served.place.name, served.place.version)
        watches.pop(key, None)
        if served.watch is not None:
            watches[key] = served.watch
        return before

    def _loaded(self, place: Place) -> Served:
        was = stamp(place.path)  # before it is read: a change meanwhile is seen later
        model, about = self._load(place.path)
        engine, runs = make_engine(model, self._engine, self._limits.batch)
        takes = signature(model.inputs, model.outputs, about)
        labels = place.name, place.version
        batch, seconds = self._metrics.batch.labels(*labels), self._metrics.compute.labels(*labels)

        def observed(rows, elapsed):
            batch.observe(rows)
            seconds.observe(elapsed)

        batcher = Batcher(runs, self._limits, observed)
        self._metrics.queue.labels(*labels).set_function(lambda: batcher.rows)
        predictions = Predictions(self._metrics, *labels, about.get("class_names", ()))
        watch = _watch(takes, about)
        content = pack(model) if place.path.is_dir() else place.path.read_bytes()
        facts = {
            "engine": engine,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "integers": integers(model),
        }
        explain = explainer(model, takes, jit)
        return Served(
            place,
            model,
            about,
            engine,
            takes,
            batcher,
            predictions,
            watch,
            self._metrics.latency.labels(*labels),
            explain,
            facts,
            was,
        )


def _watch(takes: Signature, about: dict[str, Any]) -> Watch | None:
    """Returns the window over a classifier of one input whose file has a reference, else None."""
    outputs = takes.outputs
    right = len(takes.inputs) == len(outputs) == 1 and takes.inputs[0].batched
    right = right and outputs[0].batched and len(outputs[0].shape) == 1 and outputs[0].shape[0] > 1
    return Watch(about["reference"]) if right and about.get("reference") is not None else None


def stamp(path: Path) -> Any:
    """Returns what changes when a file, or the run in a folder, does; None if it is not there."""
    try:
        if path.is_dir():
            folder = path / "checkpoints"
            return sorted((file.name, file.stat().st_mtime_ns) for file in folder.iterdir())
        found = path.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino
    except OSError:
        return None
