"""Which rank a bad step came from, of the rows that all of them tell."""

from typing import Any

import pytest

from umbel.ssl.train import guilty

NORMS = ["grad_norm_backbone", "grad_norm_head"]
SUMMED = ["loss", "image_loss", "expansion", *NORMS]


@pytest.mark.parametrize(
    ("terms", "ranks"),
    [
        # Features that are not finite: the summed covariances carry them to all ranks.
        ([SUMMED, ["loss", "image_loss", "compression", "expansion", *NORMS], SUMMED], [1]),
        ([SUMMED, SUMMED, ["loss", "patch_loss", "expansion", *NORMS]], [2]),
        ([NORMS, ["loss", "image_loss", *NORMS], ["loss", *NORMS]], [1, 2]),
        ([SUMMED, SUMMED, SUMMED], [0, 1, 2]),  # a covariance that cannot be factorized is everybody's
        ([NORMS, NORMS, NORMS], [0, 1, 2]),
        ([[], NORMS, []], [1]),
    ],
)
def test_the_rank_whose_own_terms_are_not_finite_is_told(terms: list[list[str]], ranks: list[int]) -> None:
    told: list[dict[str, Any]] = [{"rank": rank, "terms": names} for rank, names in enumerate(terms)]
    assert [row["rank"] for row in guilty(told)] == ranks
