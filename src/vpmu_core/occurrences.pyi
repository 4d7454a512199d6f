FLOWS: tuple[str, ...]
INDEX: dict[str, int]
