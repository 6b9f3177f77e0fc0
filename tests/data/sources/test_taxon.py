"""A taxon takes the categories that bear its name at its level, and no others."""

import pytest

from umbel.data.sources.taxon import Taxon
from umbel.run import UserError

CATEGORIES = [{"genus": "Rosa"}, {"family": "Rosa"}, {"genus": "Rosanna"}, {"genus": "Acer"}, {"genus": "Rosa"}]


def test_the_name_counts_at_the_level_alone() -> None:
    assert Taxon.parse("genus=Rosa").choose(CATEGORIES) == [0, 4]
    assert Taxon.parse("family=Rosa").choose(CATEGORIES) == [1]


def test_a_name_may_hold_an_equals_sign_and_is_told_in_words() -> None:
    assert Taxon.parse("name=Rosa = x") == Taxon(level="name", value="Rosa = x")
    assert str(Taxon.parse("genus=Rosa")) == "genus Rosa"


@pytest.mark.parametrize("text", ["Plantae", "kingdom", "kingdom=", "=Plantae", "tribe=Cardueae", "", "Genus=Rosa"])
def test_what_is_no_level_with_a_name_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--taxon must be level=value"):
        Taxon.parse(text)


@pytest.mark.parametrize(
    ("taxon", "words"),
    [
        ("genus=Rossa", "no category has genus 'Rossa', did you mean 'Rosa'"),
        ("genus=Zea", "there are 3: Acer, Rosa, Rosanna."),
        ("phylum=Tracheophyta", "no category has phylum 'Tracheophyta': they tell no phylum."),
    ],
)
def test_a_name_that_none_bears_is_answered_with_what_there_is(taxon: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Taxon.parse(taxon).choose(CATEGORIES)
    assert words in str(caught.value)
