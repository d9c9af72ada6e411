"""What a training step and an evaluation see of scenes: views for the encoder, and others to be met."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, islice

import numpy as np
from torch.utils.data import DataLoader, Dataset

from nest_nerfstudio.data.scenes import Scene, State, bad_scenes_left_out
from nest_nerfstudio.data.scenes_library import SceneLibrary
from nest_nerfstudio.types import SceneSample, Views


class SceneSampleDataset(Dataset[SceneSample]):
    """An endless, shuffled sequence of samples; sample n depends on nothing but the seed and n.

    So a run goes on from any step, and any number of workers and processes give the same sequence. It goes
    through all scenes before any comes again.

    Args:
        library: where scenes are read.
        scenes: numbers of the scenes to draw.
        num_context: fewest and most context views of a sample.
        num_targets: target views of the same state, and of each other one.
        edit_states: other edits of the scene to give targets of, at most.
        seed: of all that is drawn.
        skip_bad: leave out scenes that cannot be read, with a line in the log, and give the next one.
    """

    def __init__(
        self,
        library: SceneLibrary,
        scenes: Sequence[int],
        num_context: tuple[int, int] = (1, 8),
        num_targets: int = 4,
        edit_states: int = 0,
        seed: int = 0,
        skip_bad: bool = False,
    ):
        if not 1 <= num_context[0] <= num_context[1] or num_targets < 1 or edit_states < 0:
            raise ValueError(
                f"num_context {num_context} must be the fewest and the most views, from 1 upwards; "
                f"num_targets {num_targets} must be 1 or more, and edit_states {edit_states} 0 or more"
            )
        if not len(scenes):
            raise ValueError(
                "there are no scenes to train on: all are held out; set holdout to 0, or above 1"
            )
        self.library, self.scenes = library, list(scenes)
        self.num_context, self.num_targets, self.edit_states = num_context, num_targets, edit_states
        self.seed, self.skip_bad = seed, skip_bad
        self._bad: set[int] = set()

    def __getitem__(self, n: int) -> SceneSample:
        """Sample n ≥ 0 of the sequence.

        Raises:
            ValueError: a scene is of no use.
            FileNotFoundError: pictures are missing.
        """
        for i in range(n, n + len(self.scenes)):
            number = self.scene_at(i)
            if number in self._bad:
                continue
            with bad_scenes_left_out(self.skip_bad):
                return self._draw(number, np.random.default_rng((self.seed, n)))
            self._bad.add(number)
        raise ValueError(f"none of the {len(self.scenes)} scenes can be used; the log says why")

    def scene_at(self, n: int) -> int:
        """Number of the scene that sample n shows."""
        epoch, place = divmod(n, len(self.scenes))
        return self.scenes[_shuffled(len(self.scenes), self.seed, epoch)[place]]

    def _draw(self, number: int, rng: np.random.Generator) -> SceneSample:
        scene = self.library.scene(number)
        sizes = Counter(scene.states)
        states = sorted(state for state, size in sizes.items() if size >= 2)
        if not states:
            raise ValueError(
                f"scene {scene.name} has {len(scene)} frame(s), and no two of one state (edit and time): one "
                "is needed as context and another as target. Add views, or remove the scene"
            )
        state = states[rng.integers(len(states))]
        num_context = int(rng.integers(self.num_context[0], self.num_context[1] + 1))
        chosen = self._drawn(scene, state, num_context + self.num_targets, rng)
        if len(chosen) < 2:
            raise ValueError(
                f"scene {scene.name}: of {sizes[state]} views of the state {state.edit}, only {len(chosen)} "
                "show anything; alpha or mask of the others is zero everywhere. Two are needed"
            )
        num_context = min(num_context, len(chosen) - 1)
        others = sorted(other for other in sizes if other.time == state.time and other != state)
        picked = [others[i] for i in rng.permutation(len(others))[: self.edit_states]]
        targets = {state: chosen[num_context:][: self.num_targets]}
        targets |= {other: self._drawn(scene, other, self.num_targets, rng) for other in picked}
        return _sample(self.library, scene, state, chosen[:num_context], targets)

    def _drawn(self, scene: Scene, state: State, most: int, rng: np.random.Generator) -> list[int]:
        """Frames of a state, in random order, without those in which nothing is to be seen."""
        order = rng.permutation(scene.frames(state)).tolist()
        return list(islice(_seen(self.library, scene, order), most))


def eval_sample(library: SceneLibrary, number: int, num_context: int, seed: int = 0) -> SceneSample:
    """The evaluation of one scene: context of its base state, targets of all states at that time.

    The context is the start of a fixed order of the train frames of the base state, so fewer views are
    among more; it depends on the scene's name, not on which other scenes there are. Targets are all test
    frames: the base state's first, then each edit's.

    Args:
        library: where the scene is read.
        number: of the scene.
        num_context: number of context views.
        seed: of the order.

    Raises:
        ValueError: too few train frames, or no test frame.
    """
    scene = library.scene(number)
    base = scene.base_state
    train = _context_frames(library, scene, seed)
    if not 1 <= num_context <= len(train):
        raise ValueError(
            f"scene {scene.name} has {len(train)} train views of its base state to choose from, so "
            f"{num_context} cannot be its context"
        )
    states = [base, *sorted(s for s in set(scene.states) if s.time == base.time and s != base)]
    targets = {state: list(_seen(library, scene, scene.frames(state, test=True))) for state in states}
    if not targets[base]:
        raise ValueError(f"scene {scene.name} has no test view of its base state to be evaluated on")
    return _sample(library, scene, base, train[:num_context], targets)


def context_views(library: SceneLibrary, number: int, most: int, seed: int = 0) -> Views:
    """The context of a scene's evaluation: so many views, or as many as there are."""
    scene = library.scene(number)
    return library.views(scene, _context_frames(library, scene, seed)[:most])


def _context_frames(library: SceneLibrary, scene: Scene, seed: int) -> list[int]:
    """Train frames of the base state in an order that depends on the seed and the scene's name."""
    rng = np.random.default_rng((seed, zlib.crc32(scene.name.encode())))
    frames = rng.permutation(scene.frames(scene.base_state, test=False)).tolist()
    return list(_seen(library, scene, frames))


def step_draws(step: int, batch: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Places in the sequence of samples that a process takes in a step; no other process takes these."""
    return [(step * batch + i) * world_size + rank for i in range(batch)]


def load_steps(
    dataset: SceneSampleDataset, start: int, batch: int, num_workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[list[SceneSample]]:
    """Batches of all steps from `start` on, loaded ahead by worker processes."""
    draws = (step_draws(step, batch, rank, world_size) for step in count(start))
    return iter(DataLoader(dataset, batch_sampler=draws, num_workers=num_workers, collate_fn=list))  # type: ignore


def _sample(
    library: SceneLibrary, scene: Scene, state: State, context: list[int], targets: dict[State, list[int]]
) -> SceneSample:
    return SceneSample(
        name=scene.name,
        category=scene.category,
        context=library.views(scene, context),
        edit=scene.edits[state.edit],
        targets=tuple(
            (scene.edits[s.edit], library.views(scene, frames)) for s, frames in targets.items() if frames
        ),
    )


def _seen(library: SceneLibrary, scene: Scene, frames: Sequence[int]) -> Iterator[int]:
    """Those frames in which something is to be seen; an empty picture tells an encoder nothing."""
    return (frame for frame in frames if not library.picture(scene, frame).is_empty)


@lru_cache(maxsize=2)
def _shuffled(length: int, seed: int, epoch: int) -> list[int]:
    return np.random.default_rng((seed, epoch)).permutation(length).tolist()
