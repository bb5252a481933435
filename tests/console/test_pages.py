"""The pages in a headless browser: what they show, what they do, and that they do not complain.

Needs Debian's Chromium: `apt-get install chromium`, or HEADWATER_CHROMIUM with the path of one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from runtime.ports import free_port
from schema.config import Config
from schema.config_file import dump_config
from tests.console.fakes import FakeRoles, serving
from tests.polling import wait_until

CHROMIUM = os.environ.get("HEADWATER_CHROMIUM") or shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; `apt-get install chromium` brings one")


@pytest.fixture(scope="module")
def roles() -> FakeRoles:
    return FakeRoles()


@pytest.fixture(scope="module")
def console(roles: FakeRoles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("console")
    with serving(roles, folder) as config, started(config, folder) as url:
        yield url


class started:  # noqa: N801 - reads as one
    """The console as a process, at an address of its own."""

    def __init__(self, config: Config, folder: Path) -> None:
        port = free_port()
        placed = msgspec.structs.replace(config.console, port=port)
        dump_config(msgspec.structs.replace(config, console=placed), folder / "config.yaml")
        self._url, self._folder = f"http://127.0.0.1:{port}", folder

    def __enter__(self) -> str:
        command = [sys.executable, "-m", "console", str(self._folder / "config.yaml")]
        # a test run must not be taken for the test of a NiceGUI application
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "NICEGUI"))}
        with (self._folder / "console.log").open("wb") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        wait_until(self._ready, 60)
        return self._url

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(20) == 0, (self._folder / "console.log").read_text()

    def _ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "console.log").read_text()
        try:
            return httpx.get(f"{self._url}/readyz").is_success
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page, and what it complained of or fetched from elsewhere."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")):
            self.complaints.append(f"fetched from elsewhere: {request.url}")

    def fits(self) -> bool:
        width: int = self.page.evaluate("document.documentElement.scrollWidth")
        return width <= self.page.viewport_size["width"]


@pytest.fixture(params=[(1440, 900), (390, 844)], ids=["desk", "phone"])
def watched(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Watched]:
    width, height = request.param
    page = browser.new_page(viewport={"width": width, "height": height})
    found = Watched(page)
    yield found
    assert found.complaints == []
    page.close()


def test_the_dashboard_shows_every_role_and_fits(console: str, watched: Watched) -> None:
    page = watched.page
    page.goto(console)
    expect(page.get_by_text("6 roles up")).to_be_visible()
    for title in (
        "True interest served",
        "Freshness by stage",
        "Throughput",
        "Lag",
        "Table rows",
    ):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    expect(page.locator("canvas, svg")).not_to_have_count(0)
    expect(page.get_by_role("cell", name="41 · 42")).to_be_visible()
    expect(page.locator(".hw-tile").filter(has_text="AUC, click")).to_contain_text("0.700")
    assert watched.fits()


def test_an_operator_pauses_and_injects(console: str, watched: Watched, roles: FakeRoles) -> None:
    page = watched.page
    page.goto(console)
    page.get_by_role("button", name="Pause sync").click()
    expect(page.get_by_role("button", name="Resume sync")).to_be_visible()
    assert roles.bodies("/v1/sync/settings")[-1] == {"paused": True}
    page.get_by_role("button", name="Resume sync").click()
    expect(page.get_by_role("button", name="Pause sync")).to_be_visible()
    page.get_by_role("button", name="Inject a trend").click()
    expect(page.get_by_text("Everybody now likes topic 5").first).to_be_visible()


def test_an_operator_makes_a_recovery_point_and_rolls_back(
    console: str, watched: Watched, roles: FakeRoles
) -> None:
    page = watched.page
    page.goto(console)
    page.get_by_role("button", name="Recovery point").click()
    expect(page.get_by_text("Recovery point 5 is made").first).to_be_visible()
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("button", name="Cancel").click()
    assert roles.bodies("/command/rollback")[:1] in ([], [{"to": 4}]), "nothing without a confirmation"
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("button", name="Return to it").click()
    expect(page.get_by_text("Returned to recovery point 4").first).to_be_visible()
    assert roles.bodies("/command/rollback")[-1] == {"to": 4}


def test_an_operator_makes_rounds_rarer(console: str, watched: Watched, roles: FakeRoles) -> None:
    page = watched.page
    page.goto(console)
    page.get_by_label("Sync every").click()
    page.get_by_role("option", name="5 s").click()
    expect(page.get_by_text("Rows are pulled every 5 s").first).to_be_visible()
    assert roles.bodies("/v1/sync/settings")[-1] == {"sparse_seconds": 5}


def test_a_person_scrolls_watches_and_likes(console: str, watched: Watched, roles: FakeRoles) -> None:
    page = watched.page
    before = len(roles.bodies("/v1/feed"))
    page.goto(f"{console}/phone")
    cards = page.locator(".ph-card")
    expect(cards).to_have_count(10)
    expect(cards.first).to_contain_text("click 25%")
    cards.first.get_by_role("button", name="Like").click()
    expect(page.get_by_text("you liked")).to_be_attached()
    wait_until(
        lambda: "like" in {a["kind"] for body in roles.bodies("/v1/actions") for a in body["actions"]}, 10
    )
    for place in range(8):
        page.wait_for_timeout(900)
        cards.nth(place).get_by_role("button", name="Next").click()
    expect(cards).to_have_count(20)
    wait_until(
        lambda: "watch" in {a["kind"] for body in roles.bodies("/v1/actions") for a in body["actions"]}, 10
    )
    assert len(roles.bodies("/v1/feed")) == before + 2
    assert watched.fits()


def test_a_phone_without_items_says_so_and_tries_again(
    console: str, watched: Watched, roles: FakeRoles
) -> None:
    roles.without_items = True
    try:
        watched.page.goto(f"{console}/phone")
        expect(watched.page.get_by_text("Nothing to show yet")).to_be_visible()
    finally:
        roles.without_items = False
    expect(watched.page.locator(".ph-card")).to_have_count(10)
