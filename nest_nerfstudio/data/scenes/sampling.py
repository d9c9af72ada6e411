"""Samples of scenes for training and evaluation: context views for the encoder, and target views."""

from __future__ import annotations

import io
import pickle
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.reader import Scene, State, skip_bad_scenes
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
        return _make_sample(self.library, scene, state, chosen[:num_context], targets)

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


def eval_sample(library: SceneLibrary, number: int, num_context: int, seed: int = 0) -> SceneSample:
    """Read the evaluation of one scene: context of its base state, targets of all states at its time.

    The context is the start of a fixed order of the train frames of the base state, so that fewer views are
    a subset of more; the order depends on the scene's name, not on the other scenes. Targets are all test
    frames: those of the base state first, then those of each edit.

    Args:
        library: source of scenes and images.
        number: number of the scene.
        num_context: number of context views.
        seed: random seed of the order.

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
    if not targets[base]:
        raise ValueError(f"scene {scene.name} has no test view of its base state to evaluate on")
    return _make_sample(library, scene, base, train[:num_context], targets)


class ContextViews:
    """Context views of the evaluation of each scene, on the device, read on demand.

    `contexts[number, num_views]` is the first `num_views` context views of a scene, fewer if it has fewer.

    Args:
        library: source of scenes and images.
        device: device of the views.
        seed: random seed of the order of the views, as in `eval_sample`.
    """

    def __init__(self, library: SceneLibrary, device: torch.device | str = "cpu", seed: int = 0):
        self._library, self._device, self._seed = library, device, seed

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


def sample_to(sample: SceneSample, device: torch.device | str) -> SceneSample:
    """The sample with its tensors on a device."""
    targets = tuple((edit, views.to(device)) for edit, views in sample.targets)
    return replace(sample, context=sample.context.to(device), targets=targets)


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


def _non_empty(library: SceneLibrary, scene: Scene, frames: Sequence[int]) -> Iterator[int]:
    """Frames whose image is not wholly transparent; an empty one tells an encoder nothing."""
    return (frame for frame in frames if not library.image(scene, frame).is_empty)


@lru_cache(maxsize=2)
def _shuffled(length: int, seed: int, epoch: int) -> list[int]:
    return np.random.default_rng((seed, epoch)).permutation(length).tolist()
