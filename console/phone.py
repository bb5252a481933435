"""The phone: a person scrolls a feed of the live replicas, watches, likes and skips, and sees it change."""

from __future__ import annotations

import asyncio
import html
import random
import time
from collections import Counter
from typing import Any, Final

from nicegui import ui

from console import theme
from console.roles import Roles
from console.viewer import HASTE, Card, Viewer, card

_FIRST_USER: Final = 9_000_000
_AHEAD: Final = 3
_FEEDS_SHOWN: Final = 8
_RETRY_SECONDS: Final = 2.0

_SEEN: Final = """
<script>
window.watchCards = () => {
  const feed = document.querySelector('.ph-feed');
  if (!feed || feed.watcher) return;
  const watcher = feed.watcher = new IntersectionObserver(found => found.forEach(e => {
    e.target.classList.toggle('playing', e.isIntersecting);
    if (e.isIntersecting) emitEvent('seen', Number(e.target.dataset.index));
  }), {root: feed, threshold: 0.7});
  const all = () => feed.querySelectorAll('.ph-card:not([data-watched])').forEach(c => {
    c.dataset.watched = 1; watcher.observe(c);
  });
  new MutationObserver(all).observe(feed, {childList: true}); all();
};
window.nextCard = () => {
  const feed = document.querySelector('.ph-feed');
  feed.scrollBy({top: feed.clientHeight, behavior: 'smooth'});
};
</script>
"""


class Phone:
    """One person's phone."""

    def __init__(self, roles: Roles) -> None:
        self._roles = roles
        self._viewer = Viewer(_FIRST_USER + random.SystemRandom().randrange(1_000_000))
        self._fetching = asyncio.Lock()

    async def build(self) -> None:
        """Make the page and show a first feed."""
        theme.apply("Headwater phone")
        ui.add_body_html(_SEEN)
        with ui.element("main").classes("ph-stage"):
            with ui.element("section").classes("ph-phone"):
                with ui.element("div").classes("ph-back"):
                    ui.link("← Console", "/")
                self._empty = ui.html("", sanitize=False).classes("ph-empty")
                self._feed = ui.element("div").classes("ph-feed column")
            with ui.element("section").classes("ph-panel"):
                self._panel()
        ui.on("seen", self._seen)
        await self._more()
        ui.run_javascript("watchCards()")

    def _panel(self) -> None:
        with ui.element("div").classes("hw-card"):
            about = (
                f"You are user {self._viewer.user:,}, whom the system has never seen. Stay to watch (time "
                f"runs {HASTE:g} times as fast), scroll on to skip, press the heart to like. What you do is "
                "joined, learned and served within seconds; your next feeds show it."
            )
            ui.html(f'<h2>Your feed, and why</h2><div class="hw-dim">{about}</div>', sanitize=False)
            self._status = ui.html("", sanitize=False).classes("hw-dim")
        with ui.element("div").classes("hw-card"):
            text = "Each bar is one feed you were given, the newest on top; each colour a topic."
            ui.html(f'<h2>How it changes</h2><div class="hw-dim">{text}</div>', sanitize=False)
            self._mixes = ui.html("", sanitize=False)

    async def _seen(self, event: Any) -> None:
        index = int(event.args)
        await self._tell(self._viewer.look(index, time.monotonic(), _now_ms()))
        if self._viewer.left < _AHEAD:
            await self._more()

    async def _like(self, index: int, button: ui.button) -> None:
        button.classes("on")
        await self._tell(self._viewer.like(index, _now_ms()))
        self._show()

    async def _tell(self, actions: list[dict[str, Any]]) -> None:
        if actions:
            answer = await self._roles.act(self._viewer.user, actions)
            if answer.error is not None:
                ui.notify(answer.error, type="negative")

    async def _more(self) -> None:
        """Another feed below the last one; one at a time."""
        if self._fetching.locked():
            return
        async with self._fetching:
            answer = await self._roles.feed(self._viewer.user)
            if answer.error is not None:
                self._say_nothing_to_show(answer.error)
                return
            self._empty.set_content("")
            cards = await self._cards(answer.body)
            first = len(self._viewer.cards)
            self._viewer.shown(cards)
            with self._feed:
                for index, shown in enumerate(cards, first):
                    self._card(index, shown)
            clocks = ", ".join(f"{clock:,}" for _, clock in answer.body["model"]["shards"])
            self._status.set_content(
                f"Last feed by weights {answer.body['model']['dense']:,}, rows as of clocks {clocks}."
            )
            self._show()

    def _say_nothing_to_show(self, why: str) -> None:
        """Say so where the next card would be, and ask again in a moment."""
        if not self._viewer.cards:
            self._empty.set_content("Nothing to show yet; trying again&hellip;")
        self._status.set_content(f"No feed: {html.escape(why)}")
        ui.timer(_RETRY_SECONDS, self._more, once=True)

    async def _cards(self, feed: dict[str, Any]) -> list[Card]:
        items = feed["items"]
        known = await asyncio.gather(*(self._roles.item(item["item_id"]) for item in items))
        return [card(feed["request_id"], i, k, None) for i, k in zip(items, known, strict=True)]

    def _card(self, index: int, shown: Card) -> None:
        with ui.element("article").classes("ph-card").props(f"data-index={index}"):
            ui.html(_face(shown), sanitize=False)
            with ui.element("div").classes("ph-side"):
                like = ui.button(icon="favorite").props("round flat aria-label=Like")
                like.on_click(lambda i=index, b=like: self._like(i, b))
                ui.label("Like").classes("ph-label")
                skip = ui.button(icon="keyboard_arrow_down").props("round flat aria-label=Next")
                skip.on("click", js_handler="() => nextCard()")
                ui.label("Next").classes("ph-label")

    def _show(self) -> None:
        newest = list(enumerate(self._viewer.mixes, 1))[::-1][:_FEEDS_SHOWN]
        rows = "".join(f'<div class="ph-row"><span>feed {n}</span>{_mix(mix)}</div>' for n, mix in newest)
        liked = f'<div class="ph-row"><span>you liked</span>{_mix(self._viewer.liked)}</div>'
        self._mixes.set_content(f'<div style="display:grid;gap:7px">{liked}{rows}</div>')


def _face(shown: Card) -> str:
    """The picture of a card, what it is, and what the model expects of this person."""
    hue, other = shown.hue, (shown.hue + 48) % 360
    art = (
        f"background:radial-gradient(120% 90% at 20% 10%,hsl({hue} 80% 58%),transparent 60%),"
        f"radial-gradient(110% 90% at 90% 80%,hsl({other} 75% 42%),transparent 62%),hsl({hue} 50% 17%)"
    )
    expected = {name.replace("_", " "): f"{score:.0%}" for name, score in shown.scores.items()}
    chips = "".join(f'<span class="ph-chip">{name} {score}</span>' for name, score in expected.items())
    chips = chips or '<span class="ph-chip">by popularity</span>'
    if shown.explored:
        chips += '<span class="ph-chip new">exploring</span>'
    return (
        f'<div class="ph-art" style="{art}"></div><div class="ph-glyph">{shown.topic}</div>'
        f'<div class="ph-shade"></div><div class="ph-text">'
        f'<div class="ph-title">Topic {shown.topic}</div>'
        f'<div class="ph-by">author {shown.author} · item {shown.item_id}</div>'
        f'<div class="ph-chips">{chips}</div></div>'
        f'<div class="ph-bar" style="animation-duration:{shown.playing_seconds:.2f}s"></div>'
    )


def _mix(topics: Counter[int]) -> str:
    if not topics:
        return '<span class="hw-dim">nothing yet</span>'
    parts = "".join(
        f'<div title="topic {topic}: {count}" style="flex:{count};background:'
        f'hsl({round(topic * 137.508) % 360} 68% 55%)"></div>'
        for topic, count in sorted(topics.items(), key=lambda pair: -pair[1])
    )
    return f'<div class="ph-mix">{parts}</div>'


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
