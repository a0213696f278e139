"""Takes the README's pictures, with a headless Chromium: the page of a run in the Prefect UI, and the report.

make pictures     after `make run`, with the server still up
"""

import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from flows import server
from flows.workspace import ROOT

PICTURES = ROOT / "docs" / "pictures"
REPORT = ROOT / "reports" / "report.html"
SETTLE = 4000  # ms in which the graph finds its layout


def fullest_run(url: str) -> str:
    """Address of the page of the longest run that a person started: one whose stages are not all Cached."""
    with server.client(url) as client:
        query = {
            "deployments": {"name": {"any_": ["run"]}},
            "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        runs = client.post("/flow_runs/filter", json=query).raise_for_status().json()
    run = max(runs, key=lambda run: run["total_run_time"])
    return f"{url.removesuffix('/api')}/runs/flow-run/{run['id']}"


def main() -> None:
    """Write docs/pictures/run.png and report.png."""
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        for name, address in {"run": fullest_run(server.address()), "report": REPORT.as_uri()}.items():
            page.goto(address)
            page.wait_for_timeout(SETTLE)
            if name == "run":
                page.get_by_title("Recenter graph").click()
                page.wait_for_timeout(1000)
            page.screenshot(path=PICTURES / f"{name}.png")
            print(Path("docs/pictures") / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
