"""Leaves the page to try the code interpreter alone until its session is over, and comes back: `try_page_idle URL TOKEN`."""

from __future__ import annotations

import sys
import time

from playwright.sync_api import expect, sync_playwright

from browser.devtools import chromium_path
from browser.try_page import NEW_SESSION, newest, run


def main(url: str, token: str) -> None:
    """Run code, wait until the server has no session any more, and run more."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{url}/sandbox/try#token={token}")
        run(page, "kept = 1")
        expect(newest(page)).to_contain_text("(no output)")
        deadline = time.monotonic() + 60
        while "0 of " not in newest(page).inner_text():
            assert time.monotonic() < deadline, newest(page).inner_text()
            page.wait_for_timeout(200)
            page.get_by_role("button", name="Check status").click()
            expect(page.get_by_role("button", name="Check status")).to_be_enabled()
        expect(page.get_by_role("log")).not_to_contain_text(NEW_SESSION)
        run(page, "'kept' in globals()")
        expect(newest(page)).to_contain_text("False")
        expect(page.get_by_role("log")).to_contain_text(NEW_SESSION)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
