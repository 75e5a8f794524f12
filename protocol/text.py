"""Text for people: what a file, a peer or a person wrote cannot steer a terminal, nor look like another line."""


def printable(text: str) -> str:
    """Return `text` with a mark for each character that does not print: escapes, ends of lines, turns of direction."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def one_line(text: str) -> str:
    """Return `text` as one line, with single spaces, and printable."""
    return printable(" ".join(text.split()))


def plural(number: int, one: str, many: str = "") -> str:
    """Return a number with its word: "1 round", "2 rounds", "1,000 entries"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
