"""A person tries the code interpreter's page: `python -m browser.try_page URL TOKEN STORE SCREENSHOT`.

A process of its own, because Playwright keeps an event loop running in the thread that uses it. Exits with an
AssertionError's traceback when something is not as it should be.
"""

from __future__ import annotations

import sys

from playwright.sync_api import Page, expect, sync_playwright

from browser.devtools import chromium_path

PLOT = """
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
from IPython.display import Image, display
plt.plot([3, 1, 2])
plt.savefig("plot.png")
display(Image("plot.png"))
"""
NEW_SESSION = "This is a new session: the one before had ended"


def main(url: str, token: str, store: str, screenshot: str) -> None:
    """Go through all that the page can do."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
        _log_in(page, url, token)
        problems.clear()  # the browser notes the 401
        _run_code(page)
        _move_files(page, store)
        page.screenshot(path=screenshot, full_page=True)
        assert problems == [], problems
        _lose_the_session(page)
        browser.close()


def _log_in(page: Page, url: str, token: str) -> None:
    page.goto(f"{url}/sandbox/try")
    page.get_by_label("Token").fill("wrong-token")
    page.get_by_role("button", name="Check status").click()
    expect(newest(page)).to_contain_text("Invalid or missing authentication token")
    page.goto(f"{url}/sandbox/try#token={token}")
    page.reload()  # the token stays for this tab, and is not in the address any more
    assert token not in page.url
    expect(page.get_by_label("Python code")).to_be_focused()


def _run_code(page: Page) -> None:
    run(page, "x = 41\nprint('hello', x + 1)")
    expect(newest(page)).to_contain_text("hello 42")
    run(page, PLOT)
    expect(newest(page).get_by_role("img")).to_be_visible()
    assert newest(page).get_by_role("img").evaluate("image => image.naturalWidth") > 100
    run(page, "x / 0")
    expect(newest(page)).to_contain_text("ZeroDivisionError")
    run(page, "print('<img src=x onerror=alert(1)>')")
    expect(newest(page)).to_contain_text("<img src=x onerror=alert(1)>")


def _move_files(page: Page, store: str) -> None:
    page.get_by_text("Bring a file from a URL").click()
    page.locator("#upload-name").fill("in.csv")
    page.locator("#upload-url").fill(f"{store}/in.csv?signature=1")
    page.get_by_role("button", name="Bring").click()
    expect(newest(page)).to_contain_text("/sandbox/in.csv (5 bytes)")
    run(page, "n = open('out.txt', 'w').write(open('in.csv').read() * 2)")
    page.get_by_text("Send a file to a URL").click()
    page.locator("#export-name").fill("out.txt")
    page.locator("#export-url").fill(f"{store}/out.txt?signature=2")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(newest(page)).to_contain_text("/sandbox/out.txt (10 bytes)")
    page.get_by_text("Delete a file").click()
    page.locator("#delete-name").fill("in.csv")
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(newest(page)).to_contain_text("Deleted /sandbox/in.csv")


def _lose_the_session(page: Page) -> None:
    run(page, "while True: pass")
    expect(newest(page)).to_contain_text("The environment has been reset")
    run(page, "'x' in globals()")
    expect(newest(page)).to_contain_text("False")
    expect(page.get_by_role("log")).to_contain_text(NEW_SESSION)
    page.get_by_role("button", name="Release").click()
    expect(newest(page)).to_contain_text("The session was released")
    page.get_by_role("button", name="Release").click()
    expect(newest(page)).to_contain_text("No active session found for user")


def run(page: Page, code: str) -> None:
    """Run code as a person does who knows the keyboard."""
    page.get_by_label("Python code").fill(code)
    page.get_by_label("Python code").press("Control+Enter")
    expect(page.get_by_role("button", name="Run")).to_be_enabled(timeout=60_000)


def newest(page: Page):
    return page.get_by_role("log").locator("article").first


if __name__ == "__main__":
    main(*sys.argv[1:])
