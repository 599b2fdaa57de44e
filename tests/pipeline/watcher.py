"""Progress that tests can ask what it was told."""

__all__ = ["Watcher"]


class Watcher:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.messages: list[str] = []

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append(name)

    def advance(self, n: int = 1) -> None:
        """Not remembered."""

    def message(self, text: str) -> None:
        self.messages.append(text)
