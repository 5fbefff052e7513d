from typing import Optional, Sequence

INTERRUPTED: int
CLOSED_OUTPUT: str

def main(argv: Optional[Sequence[str]] = ...) -> int: ...
