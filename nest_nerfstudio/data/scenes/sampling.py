"""Samples of scenes for training and evaluation: context views for the encoder, and target views."""

from __future__ import annotations

import io
import pickle
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.reader import Scene, State, skip_bad_scenes
from nest_nerfstudio.spread import spread
from nest_nerfstudio.states import SceneSample
from nest_nerfstudio.types import Views


class SceneSampleDataset(Dataset[SceneSample]):
    """An endless, shuffled sequence of samples; sample n depends on the seed and n only.

    A run can therefore resume at any step, and any number of workers and processes give the same sequence.
    Every pass shows each scene once.

    Args:
        library: source of scenes and images.
        scenes: numbers of the scenes to sample.
        num_context: fewest and most context views of a sample, drawn log-uniformly: few are the hardest.
        num_targets: number of target views of the same state, and of each other one.
        edit_states: largest number of other states of a scene with targets.
        num_timed: most frames at other times of which a sample's motion is read, drawn log-uniformly from 4
            upwards; as many others as `num_targets` are its targets. 0: samples stand still.
        seed: random seed of scene and view sampling.
        skip_bad: skip scenes that cannot be read, with a line in the log, and take the next one.

    Raises:
        ValueError: impossible settings, or no scenes.
    """

    def __init__(
        self,
        library: SceneLibrary,
        scenes: Sequence[int],
        num_context: tuple[int, int] = (1, 8),
        num_targets: int = 4,
        edit_states: int = 0,
        num_timed: int = 0,
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
        self.num_timed, self.seed, self.skip_bad = num_timed, seed, skip_bad

    def __getitem__(self, n: int) -> SceneSample:
        """Read sample n ≥ 0 of the sequence.

        Raises:
            ValueError: a scene has no two views of one state, or its files are broken.
            FileNotFoundError: images are missing.
        """
        for i in range(n, n + 2 * len(self.scenes)):  # contains a whole pass for every n
            with skip_bad_scenes(self.skip_bad):
                return self._sample(self.scene_at(i), np.random.default_rng((self.seed, n)))
        raise ValueError(f"none of the {len(self.scenes)} scenes can be used; the log says why")

    def scene_at(self, n: int) -> int:
        """Number of the scene of sample n."""
        epoch, position = divmod(n, len(self.scenes))
        return self.scenes[_shuffled(len(self.scenes), self.seed, epoch)[position]]

    def _sample(self, number: int, rng: np.random.Generator) -> SceneSample:
        scene = self.library.scene(number)
        fewest, most = self.num_context
        num_context = min(most, int(fewest * ((most + 1) / fewest) ** rng.random()))
        state, chosen = self._sample_state(scene, num_context + self.num_targets, rng)
        num_context = min(num_context, len(chosen) - 1)
        others = sorted({s for s in scene.states if s.time == state.time and s != state})
        picked = [others[i] for i in rng.permutation(len(others))[: self.edit_states]]
        targets = {state: chosen[num_context:][: self.num_targets]}
        targets |= {other: self._sample_frames(scene, other, self.num_targets, rng) for other in picked}
        sample = _make_sample(self.library, number, state, chosen[:num_context], targets)
        return self._with_motion(sample, scene, state, rng) if self.num_timed else sample

    def _with_motion(
        self, sample: SceneSample, scene: Scene, state: State, rng: np.random.Generator
    ) -> SceneSample:
        """The sample with frames at other times, if its scene has two or more of them."""
        fewest = min(4, self.num_timed)
        count = int(fewest * ((self.num_timed + 1) / fewest) ** rng.random())
        order = rng.permutation(scene.timed_frames(state, test=False)).tolist()
        chosen = list(islice(_non_empty(self.library, scene, order), count + self.num_targets))
        count = min(count, len(chosen) - 1)
        if count < 1:  # one frame does not tell motion from its absence
            return sample
        observed, timed = (self.library.views(scene, part) for part in (chosen[:count], chosen[count:]))
        return replace(sample, observed=observed, timed=timed)

    def _sample_state(self, scene: Scene, most: int, rng: np.random.Generator) -> tuple[State, list[int]]:
        """A state with two frames or more, for context and target, and at most so many of its frames."""
        states = sorted(state for state, size in Counter(scene.states).items() if size >= 2)
        for i in rng.permutation(len(states)):
            chosen = self._sample_frames(scene, states[i], most, rng)
            if len(chosen) >= 2:
                return states[i], chosen
        raise ValueError(
            f"scene {scene.name} has {len(scene)} frame(s), but no two non-empty ones of one state (edit and "
            "time): one is needed as context and another as target. Add views, or remove the scene"
        )

    def _sample_frames(self, scene: Scene, state: State, most: int, rng: np.random.Generator) -> list[int]:
        """At most so many non-empty frames of a state, in random order."""
        order = rng.permutation(scene.frames(state)).tolist()
        return list(islice(_non_empty(self.library, scene, order), most))


def eval_sample(
    library: SceneLibrary, number: int, num_context: int, seed: int = 0, num_timed: int = 0
) -> SceneSample:
    """Read the evaluation of one scene: context of its base state, targets of all states at its time.

    The context is the start of a fixed order of the train frames of the base state, so that fewer views are
    a subset of more; the order depends on the scene's name, not on the other scenes. Targets are all test
    frames: those of the base state first, then those of each edit. Of a scene that moves, `timed` are test
    frames at other times; if no test frame is of the base state, train frames beside the context are targets.

    Args:
        library: source of scenes and images.
        number: number of the scene.
        num_context: number of context views.
        seed: random seed of the order.
        num_timed: most frames at other times of which the motion is read; 0: the scene stands still.

    Raises:
        ValueError: too few train frames, or no test frame.
    """
    scene = library.scene(number)
    base = scene.base_state
    train = _context_frames(library, scene, seed)
    if not 1 <= num_context <= len(train):
        raise ValueError(
            f"scene {scene.name} has {len(train)} train views of its base state, so {num_context} cannot be "
            "its context"
        )
    states = [base, *sorted(s for s in set(scene.states) if s.time == base.time and s != base)]
    targets = {state: list(_non_empty(library, scene, scene.frames(state, test=True))) for state in states}
    timed = list(_non_empty(library, scene, scene.timed_frames(base, test=True))) if num_timed else []
    if timed and not targets[base]:
        targets[base] = train[num_context:]
    if not (targets[base] or timed):
        raise ValueError(f"scene {scene.name} has no test view of its base state to evaluate on")
    sample = _make_sample(library, number, base, train[:num_context], targets)
    if not timed:
        return sample
    observed = timed_views(library, number, num_timed)
    return replace(sample, observed=observed, timed=library.views(scene, timed))


def timed_views(library: SceneLibrary, number: int, most: int) -> Views | None:
    """At most so many train frames of a scene at other times than that of its base state, evenly chosen.

    Args:
        library: source of scenes and images.
        number: number of the scene.
        most: number of frames.

    Returns:
        The frames in order of time; None where there are fewer than two, which tell of no motion.
    """
    scene = library.scene(number)
    frames = sorted(scene.timed_frames(scene.base_state, test=False), key=lambda i: scene.states[i].time)
    frames = list(_non_empty(library, scene, frames))
    chosen = spread(frames, most)
    return library.views(scene, chosen) if len(chosen) > 1 else None


class ContextViews:
    """Context views of the evaluation of each scene, on the device, read on demand.

    `contexts[number, num_views]` is the first `num_views` context views of a scene, fewer if it has fewer.

    Args:
        library: source of scenes and images.
        device: device of the views.
        seed: random seed of the order of the views, as in `eval_sample`.
        num_timed: most frames of `timed`.
    """

    def __init__(
        self, library: SceneLibrary, device: torch.device | str = "cpu", seed: int = 0, num_timed: int = 0
    ):
        self._library, self._device, self._seed, self._num_timed = library, device, seed, num_timed

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._library.index)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the scenes, in the order of their numbers."""
        return tuple(entry.name for entry in self._library.index.entries)

    def __getitem__(self, key: tuple[int, int]) -> Views:
        """Read context views of a scene.

        Args:
            key: number of the scene, and number of views ≥ 1.

        Raises:
            IndexError: there is no scene of this number.
            ValueError: fewer than 1 view is asked for, or the scene has none.
        """
        number, num_views = key
        if not 0 <= number < len(self):
            raise IndexError(f"there is no scene {number} among {len(self)}")
        if num_views < 1:
            raise ValueError(f"the number of context views must be 1 or more, not {num_views}")
        return context_views(self._library, number, num_views, self._seed).to(self._device)

    def timed(self, number: int) -> Views | None:
        """Frames from which the motion of a scene is read; None where it stands still."""
        views = timed_views(self._library, number, self._num_timed)
        return None if views is None else views.to(self._device)


def context_views(library: SceneLibrary, number: int, most: int, seed: int = 0) -> Views:
    """Read the context views of a scene's evaluation: the first `most` of them, or as many as there are.

    Raises:
        ValueError: the scene has no non-empty train view of its base state.
    """
    scene = library.scene(number)
    frames = _context_frames(library, scene, seed)
    if not frames:
        raise ValueError(f"scene {scene.name} has no non-empty train view of its base state")
    return library.views(scene, frames[:most])


def num_context_views(library: SceneLibrary, number: int, seed: int = 0) -> int:
    """Number of views that the context of a scene's evaluation can have."""
    return len(_context_frames(library, library.scene(number), seed))


def _context_frames(library: SceneLibrary, scene: Scene, seed: int) -> list[int]:
    """Non-empty train frames of the base state, in an order that depends on the seed and the scene's name."""
    rng = np.random.default_rng((seed, zlib.crc32(scene.name.encode())))
    frames = rng.permutation(scene.frames(scene.base_state, test=False)).tolist()
    return list(_non_empty(library, scene, frames))


def map_views(sample: SceneSample, change: Callable[[Views], Views]) -> SceneSample:
    """The sample with all its views changed alike, such as put on a device."""
    targets = tuple((edit, change(views)) for edit, views in sample.targets)
    observed, timed = (v if v is None else change(v) for v in (sample.observed, sample.timed))
    return replace(sample, context=change(sample.context), targets=targets, observed=observed, timed=timed)


def step_samples(step: int, batch: int, rank: int = 0, world_size: int = 1) -> list[int]:
    """Numbers of the samples that a process takes in a step; no other process or step takes them.

    Args:
        step: training step, from 0.
        batch: number of samples of a step, for each process.
        rank: rank of the process.
        world_size: number of processes.
    """
    return [(step * batch + i) * world_size + rank for i in range(batch)]


def load_steps(
    dataset: SceneSampleDataset, start: int, batch: int, num_workers: int, rank: int = 0, world_size: int = 1
) -> Iterator[list[SceneSample]]:
    """Iterate over the batches of all steps from `start` on, loaded ahead by worker processes."""
    numbers = (step_samples(step, batch, rank, world_size) for step in count(start))
    loader = DataLoader(
        dataset,
        batch_sampler=numbers,  # pyright: ignore[reportArgumentType]
        num_workers=num_workers,
        collate_fn=_to_bytes,
    )
    return map(pickle.loads, loader)


class _ArrayPickler(pickle.Pickler):
    """Pickles tensors as arrays, several times as fast as torch does."""

    def reducer_override(self, obj: Any) -> Any:
        return (torch.from_numpy, (obj.numpy(),)) if isinstance(obj, torch.Tensor) else NotImplemented


def _to_bytes(samples: list[SceneSample]) -> bytes:
    """Pickle a batch for sending; as shared tensors, it would hold some hundreds of file descriptors."""
    stream = io.BytesIO()
    _ArrayPickler(stream, protocol=5).dump(samples)
    return stream.getvalue()


def _make_sample(
    library: SceneLibrary, number: int, state: State, context: list[int], targets: dict[State, list[int]]
) -> SceneSample:
    scene = library.scene(number)
    return SceneSample(
        name=scene.name,
        category=scene.category,
        context=library.views(scene, context),
        edit=scene.edits[state.edit],
        targets=tuple(
            (scene.edits[s.edit], library.views(scene, frames)) for s, frames in targets.items() if frames
        ),
        clip=number,
    )


def _non_empty(library: SceneLibrary, scene: Scene, frames: Sequence[int]) -> Iterator[int]:
    """Frames whose image is not wholly transparent; an empty one tells an encoder nothing."""
    return (frame for frame in frames if not library.image(scene, frame).is_empty)


@lru_cache(maxsize=2)
def _shuffled(length: int, seed: int, epoch: int) -> list[int]:
    return np.random.default_rng((seed, epoch)).permutation(length).tolist()
