"""Tables in Markdown, as programs of `benchmarks` print them."""


def cells_of(text: str) -> list[list[str]]:
    """Return the cells of each line of a table: heads and rows, without the rules between them."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "| ---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
