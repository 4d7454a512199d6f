FLOWS: tuple[str, ...]
