"""REINFORCE: a controller that learns which options earn reward."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace
from archscout.strategies.prune import place_rows, score_row
from archscout.strategies.strategy import Goal, Open


class Policy:
    """A softmax for each decision, whose logits may depend on the options taken before; an architecture is one draw.

    The logits of decision d are bias[d] + sum over earlier decisions e of pairs[d, e, option of e]; without `depends`
    there are no pairs and the decisions are independent. Decisions with fewer options than the widest have probability
    zero beyond theirs.

    widths: options of each decision.  bias: (D, O).  pairs: (D, D, O, O) as [decision, earlier decision, its option].
    """

    def __init__(self, widths: Sequence[int], depends: bool) -> None:
        self.depends = depends
        decisions, most = len(widths), max(widths)
        self.there = np.arange(most)[None, :] < np.asarray(widths)[:, None]
        self.bias = np.zeros((decisions, most))
        self.pairs = np.zeros((decisions, decisions, most, most)) if depends else None

    def probabilities(self, decision: int, before: Sequence[int]) -> np.ndarray:
        """(O,) of the options of a decision, given the options of the decisions before it."""
        logits = self.bias[decision]
        if self.pairs is not None and decision:
            logits = logits + self.pairs[decision, np.arange(decision), np.asarray(before[:decision])].sum(0)
        logits = np.where(self.there[decision], logits, -np.inf)
        shares = np.exp(logits - logits.max())
        return shares / shares.sum()

    def draw(self, rng: np.random.Generator) -> Arch:
        """A random architecture, not canonical."""
        taken: list[int] = []
        for decision in range(len(self.bias)):
            cumulative = self.probabilities(decision, taken).cumsum()
            taken.append(int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")))
        return tuple(taken)

    def log_probability(self, arch: Arch) -> float:
        """Natural logarithm of the probability of drawing an architecture."""
        return float(sum(np.log(self.probabilities(d, arch)[option]) for d, option in enumerate(arch)))

    def gradient(self, arch: Arch, advantage: float, entropy: float) -> tuple[np.ndarray, np.ndarray | None]:
        """The gradient of advantage x log probability + entropy x sum of the decisions' entropies, of bias and pairs.

        The entropies (nats) are those of the decisions given what this architecture took before them.
        """
        decisions = len(self.bias)
        every, options = np.arange(decisions), np.asarray(arch)
        logits = self.bias
        if self.pairs is not None:  # of the decisions before each
            logits = logits + (self.pairs[:, every, options] * np.tri(decisions, k=-1)[:, :, None]).sum(1)
        logits = np.where(self.there, logits, -np.inf)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        logs = np.log(np.where(shares > 0, shares, 1.0))
        rows = -advantage * shares - entropy * shares * (logs - (shares * logs).sum(1, keepdims=True))
        rows[every, options] += advantage
        if self.pairs is None:
            return rows, None
        pairs = np.zeros_like(self.pairs)
        for earlier in range(decisions - 1):
            pairs[earlier + 1 :, earlier, arch[earlier]] = rows[earlier + 1 :]
        return rows, pairs


class Reinforce:
    """Draws architectures from a policy and makes what earned reward more likely, by the policy gradient.

    Use it where several hundred outcomes are affordable and decisions contribute much by themselves; with fewer than a
    hundred it hardly leaves random search, unless it starts near good ones. Costs a tenth of a millisecond per proposal
    and per outcome, and a ranking of the last `memory` besides (about half a millisecond).

    The reward of an outcome is the share of the last `memory` outcomes that it beats (1 the best, 0 the worst): scored
    ones by rank (of proxies among the own kind, see SearchSpace.kinds), infeasible ones behind them by violation,
    failed ones last. So the scale of the scores does not matter, and several count alike. Each outcome is one step of
    Adam along

        (reward - baseline) grad log p(architecture) + entropy x grad H,

    the baseline being the moving mean of the rewards, H the entropy of the decisions. Proposals that were left
    untrained (`skipped`) teach nothing, and one that scored teaches once: told again, it would draw the policy to what
    is known, where little else is feasible. A draw that was proposed before is drawn anew, up to `retries` times.

    lr: of Adam.  entropy: weight of the bonus that keeps the policy from settling early.  decay: of the baseline.
    depends: whether a decision may depend on those before it (see Policy), as with a recurrent controller.
    start: good architectures; they are proposed first, as if drawn, and the policy begins at the frequencies of their
           options, each option counted once more.

    Sources: Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    Machine Learning 8; for architectures: Zoph and Le 2017, arXiv 1611.01578; independent decisions and the baseline:
    Ying et al. 2019, arXiv 1902.09635; ranks as reward: Wierstra et al. 2014, "Natural evolution strategies", JMLR 15.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        goal: Goal,
        lr: float = 0.1,
        entropy: float = 0.01,
        decay: float = 0.9,
        depends: bool = False,
        memory: int = 100,
        retries: int = 10,
        start: Iterable[Arch] = (),
    ) -> None:
        if not (lr > 0 and entropy >= 0 and 0 <= decay < 1 and memory >= 1):
            raise UserError(
                "reinforce wants lr above 0, entropy of at least 0, decay in [0, 1) and a memory of at least 1, "
                f"got {lr}, {entropy}, {decay} and {memory}"
            )
        self.space, self.goal = space, goal
        self.lr, self.entropy, self.decay, self.retries = lr, entropy, decay, retries
        self._rng = np.random.default_rng(seed)
        self._open = Open()
        self.policy = Policy([len(options) for options in space.choices.values()], depends)
        self._start = deque(start)
        if self._start:
            counts = self.policy.there.astype(float)
            np.add.at(counts, (np.arange(len(counts))[None, :], np.asarray(list(self._start))), 1.0)
            self.policy.bias = np.where(self.policy.there, np.log(np.where(counts > 0, counts, 1.0)), 0.0)
        self._drawn: deque[Arch] = deque()  # the draws whose canonical forms are asked and not yet told
        self._past: deque[list[float]] = deque(maxlen=memory)  # see score_row
        self._kinds: deque[tuple[int, ...]] = deque(maxlen=memory)  # of each
        self._baseline = 0.5
        self._seen: set[Arch] = set()
        self._scored: set[Arch] = set()  # what has taught by its scores
        self._steps = 0
        self._moments = [np.zeros((2, *table.shape)) for table in self._tables()]

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures, drawn from the policy as it is after the outcomes so far."""
        return self._open.ask([self._propose() for _ in range(n)])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Learns from the outcomes, one after another."""
        self._open.tell(archs, values)
        for arch, value in zip(archs, values, strict=True):
            draw = self._drawn.popleft()
            if value.get("skipped") or arch in self._scored:
                continue
            if self.goal.reached(value):
                self._scored.add(arch)
            self._learn(draw, self.space.kind(arch), value)

    def _propose(self) -> Arch:
        for _ in range(self.retries + 1):
            draw = self._start.popleft() if self._start else self.policy.draw(self._rng)
            arch = self.space.canonical(draw)
            if arch not in self._seen:
                break
        self._drawn.append(draw)
        self._seen.add(arch)
        return arch

    def _reward(self, row: list[float], kind: tuple[int, ...]) -> float:
        """The share of the last outcomes that one beats, a tie counting half; rows as score_row makes them."""
        if not self._past:
            return 0.5
        rows, kinds = [*self._past, row], [*self._kinds, kind]
        *others, mine = place_rows(np.array(rows), self.goal, kinds).tolist()
        return sum(1.0 if other > mine else 0.5 * (other == mine) for other in others) / len(others)

    def _learn(self, draw: Arch, kind: tuple[int, ...], value: Mapping[str, float]) -> None:
        row = score_row(value, self.goal)
        reward = self._reward(row, kind)
        slopes = self.policy.gradient(draw, reward - self._baseline, self.entropy)
        self._baseline = self.decay * self._baseline + (1 - self.decay) * reward
        self._past.append(row)
        self._kinds.append(kind)
        self._steps += 1
        for table, slope, moments in zip(self._tables(), slopes, self._moments, strict=False):
            assert slope is not None
            moments[0] += 0.1 * (slope - moments[0])
            moments[1] += 0.001 * (slope**2 - moments[1])
            first, second = moments[0] / (1 - 0.9**self._steps), moments[1] / (1 - 0.999**self._steps)
            table += self.lr * first / (np.sqrt(second) + 1e-8)

    def _tables(self) -> list[np.ndarray]:
        return [self.policy.bias] if self.policy.pairs is None else [self.policy.bias, self.policy.pairs]
