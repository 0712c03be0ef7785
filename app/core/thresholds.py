"""The similarity above which two faces are likely of one person, for galleries of every size.

In a gallery of many people each face meets more strangers, and one of them is more likely to be similar by chance. So
the threshold rises with the number of people. It is a straight line over the logarithm of that number, because the tail
of strangers' similarities falls nearly exponentially: a little more similarity makes a false pair ten times rarer.
"""

import math
from dataclasses import dataclass

REFERENCE_PEOPLE = 100
FEWEST_PEOPLE, MOST_PEOPLE = 10, 1_000_000
"""Galleries of fewer or more people have the threshold of so many."""
HIGHEST = 0.99


@dataclass(frozen=True)
class Threshold:
    """A cosine: `at_reference` for a gallery of REFERENCE_PEOPLE, and `per_tenfold` more for ten times as many."""

    at_reference: float
    per_tenfold: float = 0.0

    def compute(self, people: int) -> float:
        """The threshold of a gallery of so many people."""
        bounded = min(max(people, FEWEST_PEOPLE), MOST_PEOPLE)
        raised = self.at_reference + self.per_tenfold * math.log10(bounded / REFERENCE_PEOPLE)
        return round(min(raised, HIGHEST), 4)


def make_threshold(threshold: "Threshold | float") -> Threshold:
    """A number alone is the threshold of galleries of all sizes."""
    return threshold if isinstance(threshold, Threshold) else Threshold(threshold)
