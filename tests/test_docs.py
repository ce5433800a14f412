"""Pages that are made from the code are as the code says."""

from tests import attacks_page, settings_table


def test_the_page_of_hyperparameters_is_fresh() -> None:
    fresh = settings_table.page()
    assert settings_table.PAGE.read_text(encoding="utf-8") == fresh, (
        "run: python -m tests.settings_table"
    )


def test_the_page_of_attacks_is_fresh() -> None:
    told = attacks_page.told()
    assert len(told) >= 18
    fresh = attacks_page.page(told)  # an attack that was just added need not be there yet
    assert attacks_page.PAGE.read_text(encoding="utf-8") == fresh, (
        "run: python -m tests.attacks_page"
    )
