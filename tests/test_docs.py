"""Pages that are made from the code are as the code says."""

from tests.settings_table import PAGE, page


def test_the_page_of_hyperparameters_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m tests.settings_table"
