"""Scenes in states whose factors are known: from a data set with edits, or drawn on the spot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int

from nest_nerfstudio.analysis.toy_views import toy_cameras, toy_views
from nest_nerfstudio.data.scenes.edits import BASE
from nest_nerfstudio.data.scenes.index import read_index
from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.reader import Scene, State
from nest_nerfstudio.geometry.multiview import camera_centres
from nest_nerfstudio.spread import spread
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.synthesis.datasets import MOTION_CYCLES
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class Observed:
    """A scene in a known state, as an encoder sees it.

    Attributes:
        scene: number of the scene.
        category: of its object.
        edit: its light, hue, yaw and place.
        time: of the clip.
        phase: of its motion, cycles.
        views: images of the state.
    """

    scene: int
    category: str
    edit: Edit
    time: float
    phase: float
    views: Views

    @property
    def sun(self) -> tuple[float, float, float]:
        """Direction towards the sun, unit; towards the zenith where the light is not known."""
        x, y, z = (0.0, 0.0, -1.0) if self.edit.light is None else self.edit.light.direction
        length = math.hypot(x, y, z)
        return -x / length, -y / length, -z / length


@dataclass(frozen=True)
class Factor:
    """What may vary from state to state.

    Attributes:
        group: that acts on it.
        parts: of Z, on which alone that group acts.
        target: what probes predict: angles as (cos, sin).
        turns: its angle as a fraction of a turn, where the group is a circle, or turns about z.
    """

    group: str
    parts: tuple[str, ...]
    target: Callable[[Observed], Sequence[float]]
    turns: Callable[[Observed], float] | None


def _circle(turns: float) -> tuple[float, float]:
    return math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)


def _yaw(state: Observed) -> float:
    return state.edit.yaw / (2 * math.pi)


def _azimuth(state: Observed) -> float:
    return math.atan2(state.sun[1], state.sun[0]) / (2 * math.pi)


_POSES = ("positions", "frames")
FACTORS = {
    "yaw": Factor("SO(2)", _POSES, lambda o: _circle(_yaw(o)), _yaw),
    "place": Factor("ℝ³", _POSES, lambda o: o.edit.translate, None),
    "light": Factor("SO(3)", ("light",), lambda o: o.sun, _azimuth),
    "hue": Factor("S¹", ("appearance",), lambda o: _circle(o.edit.hue), lambda o: o.edit.hue),
    "phase": Factor("S¹", ("motion",), lambda o: _circle(o.phase), lambda o: o.phase),
}
"""Factors by name."""
_ATTRIBUTES = {"yaw": "yaw", "translate": "place", "light": "light", "hue": "hue"}


@dataclass(frozen=True)
class Orbit:
    """States of one scene that differ in one factor alone, each seen from as many views."""

    factor: str
    states: tuple[Observed, ...]


@dataclass(frozen=True)
class FactorData:
    """Scenes in known states.

    Attributes:
        orbits: what varies one factor at a time: for leakage and D_LSBD.
        mixed: states for the classic scores, which assume that factors vary together and independently;
            where a data set has none, those of the orbits.
    """

    orbits: tuple[Orbit, ...]
    mixed: tuple[Observed, ...]

    def of(self, factor: str) -> tuple[list[Observed], Int[np.ndarray, " n"]]:
        """States of the orbits of a factor, and which orbit each is of."""
        orbits = [orbit for orbit in self.orbits if orbit.factor == factor]
        numbers = [i for i, orbit in enumerate(orbits) for _ in orbit.states]
        return [state for orbit in orbits for state in orbit.states], np.array(numbers, dtype=int)

    @property
    def factors(self) -> list[str]:
        """Factors that vary."""
        return [name for name in FACTORS if any(orbit.factor == name for orbit in self.orbits)]


# ---------------------------------------------------------------- data sets with edits


def read_factor_data(data: Path, num_scenes: int, num_views: int, num_times: int) -> FactorData:
    """States of a data set with edits (`scenes.json`): each scene as it is, and with each edit and time.

    Scenes are spread over the index, so over categories. An orbit is seen from as many views of each of its
    states as the poorest of them has: moments of a moving scene often have one. They are those nearest to the
    same azimuths for all states of a scene: else what tells cameras apart would tell states apart.

    Args:
        data: the folder.
        num_scenes: at most.
        num_views: of each state, at most.
        num_times: moments of a scene that moves, at most.

    Raises:
        FileNotFoundError, ValueError: as `read_index` and `read_scene`; or no state differs from the base of
            its scene in one factor alone.
    """
    index = read_index(data)
    library = SceneLibrary(index)
    orbits: list[Orbit] = []
    for number in spread(range(len(index)), num_scenes):
        scene = library.scene(number)
        states = _by_factor(scene, num_times)
        seen: dict[tuple[State, int], Observed] = {}
        for factor, others in states.items():
            chosen = [scene.base_state, *others]
            views = min(num_views, *(len(scene.frames(state)) for state in chosen))
            for state in chosen:
                if (state, views) not in seen:
                    seen[state, views] = _observed(library, scene, number, state, views)
            orbits.append(Orbit(factor, tuple(seen[state, views] for state in chosen)))
    if not orbits:
        raise ValueError(
            f"no scene of {data} has a state beside its base that differs in light, hue, yaw, place or time "
            "alone: give scenes with edits, as `nest-data toy --scenes-per-category 4` renders them"
        )
    unique = {id(state): state for orbit in orbits for state in orbit.states}
    return FactorData(tuple(orbits), tuple(unique.values()))


def _by_factor(scene: Scene, num_times: int) -> dict[str, list[State]]:
    """States that differ from the base in one factor alone."""
    base, found = scene.base_state, {}
    edits = scene.edits
    for state in sorted(set(scene.states)):
        changed = edits[state.edit].differences(edits[base.edit])
        is_known = None not in (edits[state.edit].light, edits[base.edit].light) or "light" not in changed
        if state.time == base.time and len(changed) == 1 and changed[0] in _ATTRIBUTES and is_known:
            found.setdefault(_ATTRIBUTES[changed[0]], []).append(state)
    moments = [s for s in sorted(set(scene.states)) if s.edit == base.edit == BASE and s.time != base.time]
    if moments:
        step = max(len(moments) // num_times, 1)
        found["phase"] = moments[step - 1 :: step][:num_times]
    return found


def _observed(library: SceneLibrary, scene: Scene, number: int, state: State, views: int) -> Observed:
    first = np.random.default_rng(number).uniform(0, 2 * math.pi)
    seen = library.views(scene, _around(scene, scene.frames(state), first, views))
    phase = MOTION_CYCLES * state.time
    return Observed(number, scene.category, scene.edits[state.edit], state.time, phase, seen)


def _around(scene: Scene, frames: Sequence[int], first: float, count: int) -> list[int]:
    """Frames whose cameras are nearest to evenly spread azimuths, each taken once."""
    centres = camera_centres(scene.views.viewmats[list(frames)]).double().numpy()
    azimuths, left, chosen = np.arctan2(centres[:, 1], centres[:, 0]), list(range(len(frames))), []
    for i in range(count):
        away = np.cos(azimuths[left] - first - 2 * math.pi * i / count)
        chosen.append(frames[left.pop(int(away.argmax()))])
    return chosen


# ---------------------------------------------------------------- procedural figures


def toy_factor_data(
    num_scenes: int, num_views: int, points: int, num_mixed: int, size: int = 64, seed: int = 0
) -> FactorData:
    """Procedural figures that move, in states of which every factor is known.

    Args:
        num_scenes: figures: quadrupeds, fish and snakes in turn.
        num_views: views of a state, from cameras of its own.
        points: of each orbit, evenly spread over the circle (places: random).
        num_mixed: states of each figure with all factors drawn independently.
        size: width and height of the images, pixels.
        seed: of cameras and factors.
    """
    rng = np.random.default_rng(seed)
    categories = ("quadruped", "fish", "snake")

    def observed(scene: int, edit: Edit, phase: float) -> Observed:
        category = categories[scene % len(categories)]
        cameras = toy_cameras(num_views, size, seed=int(rng.integers(2**31)))
        views = toy_views(category, scene // len(categories), cameras, edit, phase)
        return Observed(scene, category, edit, phase, phase, views)

    orbits, mixed = [], []
    for scene in range(num_scenes):
        base = observed(scene, Edit(), 0.0)
        for factor in FACTORS:
            others = (_varied(factor, i / points, rng) for i in range(1, points))
            orbits.append(Orbit(factor, (base, *(observed(scene, *other) for other in others))))
        mixed += [observed(scene, *_random(rng)) for _ in range(num_mixed)]
    return FactorData(tuple(orbits), tuple(mixed))


def _varied(factor: str, turns: float, rng: np.random.Generator) -> tuple[Edit, float]:
    """A state in which one factor differs from the base, by a part of its circle."""
    if factor == "yaw":
        return Edit(yaw=2 * math.pi * turns), 0.0
    if factor == "place":
        x, y, z = rng.uniform((-0.35, -0.35, -0.08), (0.35, 0.35, 0.08)).tolist()
        return Edit(translate=(x, y, z)), 0.0
    if factor == "light":
        return Edit(light=_turned(SunSky(), turns)), 0.0
    return (Edit(hue=turns), 0.0) if factor == "hue" else (Edit(), turns)


def _random(rng: np.random.Generator) -> tuple[Edit, float]:
    yaw, sun, hue, phase = rng.uniform(size=4).tolist()
    x, y, z = rng.uniform((-0.35, -0.35, -0.08), (0.35, 0.35, 0.08)).tolist()
    return Edit(_turned(SunSky(), sun), hue, 2 * math.pi * yaw, (x, y, z)), round(8 * phase) / 8 % 1.0


def _turned(light: SunSky, turns: float) -> SunSky:
    """A light turned about z."""
    x, y, z = light.direction
    cos, sin = _circle(turns)
    return replace(light, direction=(cos * x - sin * y, sin * x + cos * y, z))


def levels(states: Sequence[Observed], factors: Sequence[str], bins: int = 6) -> np.ndarray:
    """Discrete factors [n, f] of states, for the classic scores: category, then an angle's sixth of a turn.

    The value of a place is that of its x, in sixths of its range. Factors with one level are left out.
    """
    names = sorted({state.category for state in states})
    columns = [np.array([names.index(state.category) for state in states])]
    for name in factors:
        turns = FACTORS[name].turns
        x = np.array([turns(o) if turns else o.edit.translate[0] for o in states])
        if turns is None:
            x = (x - x.min()) / max(np.ptp(x), 1e-9) * (1 - 1e-9)
        columns.append(np.floor(bins * (x % 1.0) + 1e-6).astype(int) % bins)
    return np.array([column for column in columns if np.ptp(column) > 0]).T
