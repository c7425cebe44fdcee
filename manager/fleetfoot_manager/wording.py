"""Words for people."""


def counted(number: int, noun: str, nouns: str = "") -> str:
    """`1 device`, `2 devices`; `nouns` where the plural is another."""
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"
