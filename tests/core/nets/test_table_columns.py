"""Categories of a table by its public statistics, against a table that was made up and one that is real."""

from fedsim.core import registry
from fedsim.core.nets.table_columns import categories_of
from fedsim.metrics.table import columns_of
from tests.attacks.tables import COLUMNS, NUMBERS, SIZES, census


def test_public_means_and_deviations_show_the_categories():
    people = census()
    categories = categories_of(people.spec.mean, people.spec.std)
    assert tuple(len(category) for category in categories) == SIZES
    flags = {column for category in categories for column in category}
    assert sorted(set(range(COLUMNS)) - flags) == list(range(sum(SIZES[:4]), sum(SIZES[:4]) + NUMBERS))


def test_they_are_the_categories_by_which_guesses_of_a_real_table_are_scored():
    method = registry.get("dataset", "affairs-survey")
    data = method.make(method.config())
    scored = columns_of(data.train.inputs, data.spec).categories
    assert categories_of(data.spec.mean, data.spec.std) == scored


def test_a_single_column_of_0_and_1_is_a_category_of_its_own_and_numbers_are_none():
    assert categories_of((0.25, 0.5), (0.25 * 3**0.5, 0.2)) == ((0,),)
    assert categories_of((0.5, 0.4), (0.1, 0.2)) == ()
