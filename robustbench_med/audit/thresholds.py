"""Where a check fails, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Where a check fails.

    Attributes:
        zero_gradients: share of samples whose gradient is exactly zero. No sound network has any: in
            float32 a cross-entropy must be right by some 100 logits for that.
        zero_entries: share of a gradient's entries that are exactly zero although the values in their places
            matter. Backgrounds and dead units give a sound network many; steps in front of the whole input
            give nearly all.
        faithful: share of the margin's changes along random directions that the gradient explains, on all
            but the worst quarter of the samples. All but rounding and kinks in a sound network (0.99 and
            more); 0.8 where an eighth of the pixels is left out.
        uphill: share of samples on which a small step along the gradient raises the margin. What is
            differentiable rises to first order; plateaus and shattered gradients do not (Athalye et al.
            2018, section 3).
        small_step: that step, as a share of epsilon.
        unsteady: share of samples that stand although a random step of half of epsilon moves the margin as
            far as the gradient's own step of that length. In a sound network the gradient's step moves it
            further by about the root of the number of pixels; where it does not, the attack was blind
            (loss variability, Pintor et al. 2022, arXiv:2106.09947).
        repeatable: by how much of their range scores may change when the same pass, on the same draws, is
            made again or in another batch. Beyond rounding, of half precision at most, only what is not
            declared can change them.
        remembered: share of samples whose scores may differ by more than that between the model that was
            attacked and one that was not. What does not remember gives none.
        stronger: by how much (in share of samples) another attack may be stronger before this run's
            counts as weak, on top of chance. Weaker kinds of attack have no business being stronger at
            all (Carlini et al. 2019, section 4).
        refined: the same for attacks that cost more than the run's, which may well gain a little.
            A number further off than this is no longer the one that is reported. So it is for samples
            that an attack breaks on its way and hands back unbroken.
        together: by how much the best of all attacks, chosen for each sample, may be stronger than the
            run's. Every attack misses a few samples; one that misses many was not the worst case.
        unbounded: what may be left when every input may become any other, of a question that gets right and
            wrong answers on these data.
    """

    zero_gradients: float = 0.0
    zero_entries: float = 0.98
    faithful: float = 0.95
    uphill: float = 0.9
    small_step: float = 0.05
    unsteady: float = 0.1
    repeatable: float = 0.01
    remembered: float = 0.0
    stronger: float = 0.002
    refined: float = 0.02
    together: float = 0.05
    unbounded: float = 0.02
