"""The chat as people use it: ``run.py``, and a Chromium on each of its two servers."""
import base64
import itertools
import os
import re
import shutil
import signal

import pytest
from chatkit import HOST, shared_memory, wait_until
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = [pytest.mark.chat, pytest.mark.slow]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
DESKTOP, PHONE, SMALL_PHONE = (1200, 800), (390, 844), (320, 568)
MARKUP = "<img src=x onerror=\"document.title='broken'\"> & <b>no markup</b>"

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
    # Nothing but this machine has an address.
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
]


class Window:
    """A Chromium with a profile of its own, at the page of a room."""

    def __init__(self, profile, port, name):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in [*FLAGS, f"--user-data-dir={profile}", "--window-size={},{}".format(*DESKTOP)]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        self.address = f"http://{HOST}:{port}/"
        self.driver.get(self.address)
        self.wait_for_state("Connected")
        field = self.find("#name")
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys(name, Keys.TAB)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.driver.execute_script(
            "return document.querySelector(arguments[0]).textContent", selector
        )

    def wait_for_state(self, words):
        assert wait_until(lambda: self.text("#state-words") == words), self.text("#state")

    def wait_for_people(self, *names):
        script = (
            "return [...document.querySelectorAll('#people .called')].map("
            "called => called.firstChild.textContent.trim())"
        )
        seen = wait_until(lambda: self.driver.execute_script(script) == list(names))
        assert seen, self.text("#people")
        assert self.text("#count") == str(len(names))

    def say(self, words):
        """Type something where the keyboard is, and Enter."""
        self.driver.switch_to.active_element.send_keys(words, Keys.ENTER)

    def lines(self):
        """The texts of all that was said, by kind."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll('#lines > li')].map("
            "line => [line.classList[0], (line.querySelector('.words') || line).textContent])"
        )

    def wait_for_line(self, words, kind="line"):
        assert wait_until(lambda: [kind, words] in self.lines()), self.lines()
        assert self.lines().count([kind, words]) == 1

    def process(self):
        return int(re.search(r"Process (\d+)", self.text("#where")).group(1))

    def watch_progress(self):
        """From now on, keep each value that the progress bar takes."""
        self.driver.execute_script(
            """
            window.progress = [];
            new MutationObserver(() => {
              window.progress.push(document.querySelector("#job-progress").value);
            }).observe(document.querySelector("#job"),
                       {subtree: true, childList: true, characterData: true, attributes: true});
            """
        )

    def progress(self):
        """The different values, in their order."""
        values = self.driver.execute_script("return window.progress")
        return [value for value, _ in itertools.groupby(values)]

    def look(self, size, scheme):
        """Be a screen of another size, with light or dark colours."""
        width, height = size
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )

    def shoot(self, path):
        image = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        with open(path, "wb") as output:
            output.write(base64.b64decode(image["data"]))

    def complaints(self):
        """What the browser has logged, but for connections that a dead server refused."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if "WebSocket connection to" not in entry["message"]
        ]


@pytest.fixture
def open_window(tmp_path):
    """A function that opens a window on a port, for somebody."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium with chromedriver: on Debian, apt-get install chromium-driver")
    windows = []

    def open_one(port, name):
        windows.append(Window(tmp_path / f"profile-{name}", port, name))
        return windows[-1]

    yield open_one
    for window in windows:
        window.driver.quit()


@pytest.fixture
def running(site):
    """``run.py`` at work: port and process of its two servers."""
    site.start("run", "run.py")
    site.wait_for_log("run", "To end everything")
    servers = re.findall(rf"http://{HOST}:(\d+)/ +process (\d+)", site.log("run"))
    assert len(servers) == 2
    yield [(int(port), int(pid)) for port, pid in servers]
    if site.runs("run"):
        # It ends its own children, which the fixture does not know.
        site.end("run", signal.SIGINT)


def test_two_browsers_on_two_servers(site, running, open_window, outputs, campaign):
    (ann_port, ann_process), (ben_port, ben_process) = running
    ann, ben = open_window(ann_port, "Ann"), open_window(ben_port, "Ben")
    windows = (ann, ben)
    assert [ann.process(), ben.process()] == [ann_process, ben_process]
    for window in windows:
        window.wait_for_people("Ann", "Ben")

    chat_both_ways(ann, ben)
    check_announcement(site, windows)
    check_painting(ann, ben, os.path.join(outputs, "chat-ann-painting.png"))
    check_looks(windows, outputs)
    campaign.note(f"screenshots are in {outputs}")
    check_accessibility(ann)
    assert all_requests_stay_here(windows)

    # Ann's server dies, she goes on typing, and it comes back at the same port.
    os.kill(ann_process, signal.SIGKILL)
    ann.wait_for_state("Disconnected")
    ann.say("is anybody there?")
    assert "is anybody there?" in ann.text("#unsent")
    ann.shoot(os.path.join(outputs, "chat-ann-disconnected.png"))
    site.wait_for_log("run", "started again")
    ann.wait_for_state("Connected")
    assert ann.process() not in (ann_process, ben_process)
    for window in windows:
        window.wait_for_line("is anybody there?")
        window.wait_for_people("Ann", "Ben")
    assert ann.text("#unsent") == ""
    ben.say("I am, still")
    ann.wait_for_line("I am, still")
    check_announcement(site, windows, "all is well")

    for window in windows:
        assert window.complaints() == []
        assert window.driver.title.startswith("lobby")
    run_ends_by_ctrl_c(site, ann_process)


def chat_both_ways(ann, ben):
    ann.find("#text").click()
    ben.find("#text").click()
    said = ["Hello Ben, which server are you on?", "The other one. And you hear me at once?"]
    for speaker, words in zip((ann, ben), said):
        speaker.say(words)
        for window in (ann, ben):
            window.wait_for_line(words)
    ann.say("I do, through shared memory.")
    ben.say(MARKUP)
    for window in (ann, ben):
        window.wait_for_line("I do, through shared memory.")
        window.wait_for_line(MARKUP)
        assert window.driver.find_elements(By.CSS_SELECTOR, "#lines b b, .line img") == []


def check_announcement(site, windows, words="Tea is ready in the kitchen"):
    assert site.announce("lobby", words) == "told everybody in lobby\n"
    for window in windows:
        window.wait_for_line(words, kind="announcement")


def check_painting(asker, other, path):
    for window in (asker, other):
        window.watch_progress()
    asker.driver.switch_to.active_element.send_keys("winter", Keys.TAB, Keys.ENTER)
    assert wait_until(lambda: asker.progress()[-1:] > [20])
    asker.shoot(path)
    for window in (asker, other):
        window.wait_for_line("“winter”", kind="picture")
        assert wait_until(
            lambda window=window: window.driver.execute_script(
                "return document.querySelector('.picture img').naturalWidth"
            ) == 512
        )
    assert wait_until(lambda: not asker.find("#job").is_displayed())
    values = asker.progress()
    assert values == sorted(values)
    assert len(values) > 5
    assert other.progress() == []


def check_looks(windows, outputs):
    """No pair of colours that is hard to read, nothing that sticks out; pictures to look at."""
    for window, name in zip(windows, ("ann", "ben")):
        for size, device in ((DESKTOP, "desktop"), (PHONE, "phone"), (SMALL_PHONE, "small")):
            for scheme in ("light", "dark"):
                window.look(size, scheme)
                window.driver.execute_script("scroller.scrollTop = scroller.scrollHeight")
                assert window.driver.execute_script(CONTRASTS) == []
                assert window.driver.execute_script(
                    "return document.documentElement.scrollWidth <= innerWidth"
                )
                window.shoot(os.path.join(outputs, f"chat-{name}-{device}-{scheme}.png"))
        window.look(PHONE, "light")
        check_panel(window, os.path.join(outputs, f"chat-{name}-panel.png"))
        window.look(DESKTOP, "light")


def check_panel(window, path):
    """On a phone, the panel opens by the button, closes by Escape, and gives the focus back."""
    assert not window.find("#panel").is_displayed()
    button = window.find("#panel-button")
    button.send_keys(Keys.ENTER)
    assert window.find("#name").is_displayed()
    assert button.get_attribute("aria-expanded") == "true"
    window.shoot(path)
    window.find("#name").send_keys(Keys.ESCAPE)
    assert not window.find("#panel").is_displayed()
    assert window.driver.switch_to.active_element == button
    window.find("#text").click()


def check_accessibility(window):
    """The keyboard goes everywhere, and all that it reaches has a name."""
    nodes = window.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    focusable = [
        node for node in nodes
        if any(p["name"] == "focusable" and p["value"].get("value") for p in
               node.get("properties", []))
        and node["role"]["value"] != "RootWebArea"
    ]
    names = {node["name"]["value"] for node in focusable}
    assert {"Message to lobby", "Your name", "Send", "Paint", "Messages"} <= names
    assert "" not in names
    roles = {node["role"]["value"] for node in nodes if not node["ignored"]}
    assert {"log", "status", "main", "complementary", "navigation", "banner"} <= roles
    # Backwards from the message box, up to the first thing of the page, which leads back.
    box = window.find("#text")
    box.click()
    for _ in range(10):
        window.driver.switch_to.active_element.send_keys(Keys.SHIFT + Keys.TAB)
        if window.driver.switch_to.active_element.text == "Skip to the message box":
            break
    window.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert window.driver.switch_to.active_element == box


def all_requests_stay_here(windows):
    return all(
        address.startswith((window.address, "data:"))
        for window in windows
        for address in window.driver.execute_script(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
    )


def run_ends_by_ctrl_c(site, killed):
    status, left = site.end("run", signal.SIGINT)
    log = site.log("run")
    assert (status, left) == (0, []), log
    assert f"process {killed} ended: killed by SIGKILL" in log
    assert log.endswith("All processes have ended, and their shared memory is removed.\n")
    assert "Traceback" not in log
    assert "rror" not in log
    assert shared_memory(site.prefix) == []


CONTRASTS = """
const parse = (colour) => {
  const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
  return { rgb: [r, g, b], a };
};
const light = ({ rgb }) => {
  const [r, g, b] = rgb.map((c) => c / 255).map(
    (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.a === 1) { return colour; }
  }
};
const found = [];
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!element.checkVisibility() || !(own || element.matches("input"))) { continue; }
  const pair = [light(parse(getComputedStyle(element).color)), light(ground(element))];
  const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  if (!(ratio >= 4.5)) { found.push([element.outerHTML, ratio]); }
}
return found;
"""
"""Texts whose contrast with what is behind them is below 4.5 (WCAG 2, AA)."""
