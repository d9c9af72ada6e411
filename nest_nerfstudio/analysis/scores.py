"""Scores of codes against known factors: leakage by probes, and the classic scores of single numbers.

Of the kept libraries, `disent` has the classic scores, but draws their samples itself from a complete grid of
factors, tens of thousands for a score: what rendered scenes and an encoder of many images cannot give. These
are the same definitions on given samples, with scikit-learn.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

try:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import mutual_info_score
    from sklearn.model_selection import GroupKFold
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC
except ImportError as error:
    raise ImportError(
        "disentanglement needs scikit-learn: pip install 'nest-nerfstudio[analysis]'"
    ) from error

Probe = Literal["linear", "mlp"]
FOLDS = 5
MIN_SCENES = 3
MIG_BINS = 20
_MLP_INPUTS = 32


def leakage(
    codes: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n m"],
    scenes: Int[np.ndarray, " n"],
    probe: Probe = "linear",
) -> float:
    """R² of a probe that predicts a factor from codes, on scenes that it was not fitted to.

    1 − Σ ‖y − ŷ‖² / Σ ‖y − ȳ‖², with predictions and means ȳ of folds that hold no state of the same scene.
    Zero or less: the codes say nothing of the factor that holds beyond a scene.

    Args:
        codes: of each state; no numbers at all say nothing.
        targets: the factor of each state; angles as (cos, sin).
        scenes: scene of each state.
        probe: "linear", ridge regression; "mlp", one hidden layer of 32 on the first principal components.

    Raises:
        ValueError: NaN, a factor with one value, or fewer than three scenes.
    """
    check_samples(codes, scenes)
    if np.ptp(targets, axis=0).max() < 1e-9:
        raise ValueError("the factor has one value in all states, so nothing can be said of it")
    if not codes.shape[1]:
        return 0.0
    left, total = 0.0, 0.0
    for seen, unseen in GroupKFold(min(FOLDS, len(np.unique(scenes)))).split(codes, groups=scenes):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
            predicted = _probe(probe, len(seen), codes.shape[1]).fit(codes[seen], np.squeeze(targets[seen]))
        errors = targets[unseen] - predicted.predict(codes[unseen]).reshape(len(unseen), -1)
        left += np.square(errors).sum()
        total += np.square(targets[unseen] - targets[seen].mean(0)).sum()
    return float(1 - left / total)


def _probe(probe: Probe, samples: int, dim: int) -> Pipeline:
    if probe == "linear":
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13)))
    inputs = PCA(min(_MLP_INPUTS, dim, samples // 2))
    network = MLPRegressor(  # tanh: bounded where a scene is unlike all that it was fitted to
        hidden_layer_sizes=(32,), activation="tanh", solver="lbfgs", alpha=5.0, max_iter=300, random_state=0
    )
    return make_pipeline(StandardScaler(), inputs, network)


def check_samples(codes: Float[np.ndarray, "n d"], scenes: Int[np.ndarray, " n"]) -> None:
    """ValueError for codes that are not finite, and for too few scenes to validate on other ones."""
    if not np.isfinite(codes).all():
        raise ValueError("the codes hold NaN or infinite numbers; the encoder has diverged")
    if len(np.unique(scenes)) < MIN_SCENES:
        raise ValueError(
            f"probes are validated on scenes they were not fitted to, which takes {MIN_SCENES} scenes or "
            f"more, not {len(np.unique(scenes))}"
        )


# ---------------------------------------------------------------- classic scores


def dci(
    codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"], scenes: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """Disentanglement, completeness, informativeness, from importances of random forests of all numbers.

    Source: C. Eastwood, C. K. I. Williams, A Framework for the Quantitative Evaluation of Disentangled
    Representations, ICLR 2018. Informativeness is the accuracy on scenes that are not in the forest, over
    that of the most frequent class: 0 for guessing, 1 for always right.
    """
    importance, right = [], []
    for levels in factors.T:
        forest = RandomForestClassifier(50, random_state=0, max_features=1.0).fit(codes, levels)  # type: ignore[arg-type]
        importance.append(forest.feature_importances_ if np.ptp(codes, axis=0).any() else 0 * codes[0])
        hits = guesses = 0
        for seen, unseen in GroupKFold(min(FOLDS, len(np.unique(scenes)))).split(codes, groups=scenes):
            other = RandomForestClassifier(50, random_state=0).fit(codes[seen], levels[seen])
            hits += (other.predict(codes[unseen]) == levels[unseen]).sum()
            guesses += (np.bincount(levels[seen]).argmax() == levels[unseen]).sum()
        right.append(max((hits - guesses) / max(len(levels) - guesses, 1), 0.0))
    shares = np.array(importance).T  # [d, f]
    return {
        "DCI disentanglement": _focus(shares),
        "DCI completeness": _focus(shares.T),
        "DCI informativeness": float(np.mean(right)),
    }


def _focus(shares: Float[np.ndarray, "a b"]) -> float:
    """Mean over rows, weighed by their sums, of 1 − entropy of the row over log of its length."""
    if not shares.sum() or shares.shape[1] < 2:
        return 0.0
    rows = shares[shares.sum(1) > 0]
    p = rows / rows.sum(1, keepdims=True)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(1) / np.log(shares.shape[1])
    return float(((1 - entropy) * rows.sum(1)).sum() / rows.sum())


def mig(codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"]) -> float:
    """Mutual information gap: how much more the best number of a code says of a factor than the second best.

    Source: R. T. Q. Chen et al., Isolating Sources of Disentanglement in VAEs, 2018, Eq. 6; histograms of
    20 bins, as in disentanglement_lib. Relative to the entropy of each factor, mean over factors.
    """
    binned = [np.digitize(c, np.histogram_bin_edges(c, MIG_BINS)[:-1]) for c in codes.T]
    gaps = []
    for levels in factors.T:
        known = sorted((mutual_info_score(levels, c) for c in binned), reverse=True)
        gaps.append((known[0] - known[1]) / mutual_info_score(levels, levels))
    return float(np.mean(gaps))


def sap(
    codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"], scenes: Int[np.ndarray, " n"]
) -> float:
    """Separated attribute predictability: accuracy of the best single number less that of the second best.

    Source: A. Kumar, P. Sattigeri, A. Balakrishnan, Variational Inference of Disentangled Latent Concepts,
    2018; linear support vector machines with balanced classes on half of the scenes, scored on the others.
    """
    test = np.isin(scenes, np.unique(scenes)[1::2])
    standard = StandardScaler().fit(codes[~test])
    fitted, scored = (np.asarray(standard.transform(codes[part])) for part in (~test, test))
    gaps = []
    for levels in factors.T:
        if len(np.unique(levels[~test])) < 2:
            raise ValueError("SAP needs two levels of every factor in half of the scenes; use more scenes")
        right = sorted(
            LinearSVC(C=0.01, class_weight="balanced").fit(fitted[:, [i]], levels[~test])
            .score(scored[:, [i]], levels[test])
            for i in range(codes.shape[1])
        )  # fmt: skip
        gaps.append(right[-1] - right[-2])
    return float(np.mean(gaps))


def factor_vae(
    codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"], votes: int = 400, batch: int = 16
) -> float:
    """FactorVAE score: whether the number that varies least tells which factor was held.

    Source: H. Kim, A. Mnih, Disentangling by Factorising, ICML 2018. Of samples that share one level of one
    factor, the number of least relative variance votes; accuracy of the majority vote on half of the votes.
    """
    rng = np.random.default_rng(0)
    spread = codes.var(0)
    active = spread > 1e-12
    if not active.any():
        return 1 / factors.shape[1]
    counts = np.zeros((2, active.sum(), factors.shape[1]))
    for vote in range(votes):
        factor = rng.integers(factors.shape[1])
        level = factors[rng.integers(len(factors)), factor]
        same = np.flatnonzero(factors[:, factor] == level)
        chosen = codes[rng.choice(same, batch)][:, active]
        counts[vote % 2, (chosen.var(0) / spread[active]).argmin(), factor] += 1
    majority = counts[0].argmax(1)
    return float(counts[1][np.arange(len(majority)), majority].sum() / counts[1].sum())


def classic_scores(
    codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n f"], scenes: Int[np.ndarray, " n"]
) -> dict[str, float]:
    """MIG, DCI, SAP and FactorVAE score, all 1 at best.

    Args:
        codes: at least two numbers of each state.
        factors: level of each factor, from 0.
        scenes: scene of each state.

    Raises:
        ValueError: NaN, too few scenes or numbers, or a factor with one level.
    """
    check_samples(codes, scenes)
    if codes.shape[1] < 2:
        raise ValueError("the gaps of MIG and SAP are between numbers of a code, which has to have two")
    if (np.ptp(factors, axis=0) == 0).any():
        raise ValueError("a factor has one level in all states; leave it out")
    return {
        "MIG": mig(codes, factors),
        **dci(codes, factors, scenes),
        "SAP": sap(codes, factors, scenes),
        "FactorVAE": factor_vae(codes, factors),
    }
