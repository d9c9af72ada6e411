"""What a training step and an evaluation see of scenes: views for the encoder, and others to be met."""

from __future__ import annotations

import io
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.reader import Scene, State, skip_bad_scenes
from nest_nerfstudio.types import SceneSample, Views


class SceneSampleDataset(Dataset[SceneSample]):
    """An endless, shuffled sequence of samples; sample n depends on nothing but the seed and n.

    So a run goes on from any step, and any number of workers and processes give the same sequence. It goes
    through all scenes before any comes again.

    Args:
        library: where scenes are read.
        scenes: numbers of the scenes to draw.
        num_context: fewest and most context views of a sample, drawn log-uniformly: few are the hardest.
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

    def __getitem__(self, n: int) -> SceneSample:
        """Sample n ≥ 0 of the sequence.

        Raises:
            ValueError: a scene is of no use.
            FileNotFoundError: pictures are missing.
        """
        for i in range(n, n + 2 * len(self.scenes)):  # one whole pass is in this, wherever n is
            with skip_bad_scenes(self.skip_bad):
                return self._draw(self.scene_at(i), np.random.default_rng((self.seed, n)))
        raise ValueError(f"none of the {len(self.scenes)} scenes can be used; the log says why")

    def scene_at(self, n: int) -> int:
        """Number of the scene that sample n shows."""
        epoch, place = divmod(n, len(self.scenes))
        return self.scenes[_shuffled(len(self.scenes), self.seed, epoch)[place]]

    def _draw(self, number: int, rng: np.random.Generator) -> SceneSample:
        scene = self.library.scene(number)
        fewest, most = self.num_context
        num_context = min(most, int(fewest * ((most + 1) / fewest) ** rng.random()))
        state, chosen = self._draw_state(scene, num_context + self.num_targets, rng)
        num_context = min(num_context, len(chosen) - 1)
        others = sorted({s for s in scene.states if s.time == state.time and s != state})
        picked = [others[i] for i in rng.permutation(len(others))[: self.edit_states]]
        targets = {state: chosen[num_context:][: self.num_targets]}
        targets |= {other: self._drawn(scene, other, self.num_targets, rng) for other in picked}
        return _sample(self.library, scene, state, chosen[:num_context], targets)

    def _draw_state(self, scene: Scene, most: int, rng: np.random.Generator) -> tuple[State, list[int]]:
        """A state of two frames or more, one for the context and one to meet, and so many of its frames."""
        states = sorted(state for state, size in Counter(scene.states).items() if size >= 2)
        for i in rng.permutation(len(states)):
            chosen = self._drawn(scene, states[i], most, rng)
            if len(chosen) >= 2:
                return states[i], chosen
        raise ValueError(
            f"scene {scene.name} has {len(scene)} frame(s), but no two that show anything of one state (edit "
            "and time): one is needed as context and another as target. Add views, or remove the scene"
        )

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
    frames = _context_frames(library, scene, seed)
    if not frames:
        raise ValueError(f"scene {scene.name} has no train view of its base state in which anything is seen")
    return library.views(scene, frames[:most])


def num_context_views(library: SceneLibrary, number: int, seed: int = 0) -> int:
    """How many views there are to choose the context of a scene's evaluation from."""
    return len(_context_frames(library, library.scene(number), seed))


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
    loader = DataLoader(
        dataset,
        batch_sampler=draws,  # pyright: ignore[reportArgumentType]
        num_workers=num_workers,
        collate_fn=_to_bytes,
    )
    return map(pickle.loads, loader)


class _ArrayPickler(pickle.Pickler):
    """Writes tensors as arrays: torch's own way takes several times as long."""

    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if isinstance(obj, torch.Tensor) else NotImplemented


def _to_bytes(samples: list[SceneSample]) -> bytes:
    """A batch as a worker sends it; as tensors, it would hold a file descriptor for each of some hundreds."""
    stream = io.BytesIO()
    _ArrayPickler(stream, protocol=5).dump(samples)
    return stream.getvalue()


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
