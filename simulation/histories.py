"""What each user last watched, long viewed and liked, kept current as the replay goes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schema.config import HistoryConfig

Seeds = Mapping[str, Mapping[int, Sequence[int]]]


class Histories:
    """The configured histories of every user, newest item last.

    Args:
        configs: the histories, and which actions add to each.
        seeds: for each action, each user's items from before, oldest first. A history of several actions
            begins with the items of each action in turn.
    """

    def __init__(self, configs: Sequence[HistoryConfig], seeds: Seeds) -> None:
        self._configs = configs
        self._seeds = seeds
        self._feeds: dict[str, list[HistoryConfig]] = {}
        for config in configs:
            for action in config.actions:
                self._feeds.setdefault(action, []).append(config)
        self._users: dict[int, dict[str, list[int]]] = {}

    def of(self, user: int) -> Mapping[str, Sequence[int]]:
        """The histories of `user` by name, to be read before the next `add`."""
        found = self._users.get(user)
        if found is None:
            found = self._users[user] = {c.name: self._seed(c, user) for c in self._configs}
        return found

    def add(self, user: int, action: str, item: int) -> None:
        """`user` gave `item` the action."""
        for config in self._feeds.get(action, ()):
            self.of(user)
            items = self._users[user][config.name]
            items.append(item)
            if len(items) > config.length:
                del items[0]

    def _seed(self, config: HistoryConfig, user: int) -> list[int]:
        items = [item for action in config.actions for item in self._seeds.get(action, {}).get(user, ())]
        return items[-config.length :]
