"""The page of a run in a real browser: its script runs, the picture can be pointed at, the table can be sorted.

The page's policy lets no other script run, so the test puts its own in the place of that policy.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from diswot_search.reports.page.render import to_html
from diswot_search.reports.page.search import search_page

from .test_study import make_study

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PROBE = """
const facts = [];
addEventListener("error", (event) => facts.push(`error ${event.message}`));
const check = () => {
  const canvas = document.querySelector("figure.has-points .canvas");
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowRight");
  const tip = document.getElementById("tip");
  facts.push(`tip ${!tip.hidden && tip.textContent.includes("architecture")}`);
  press("Enter");
  facts.push(`fixed ${document.querySelectorAll("tr.fixed").length}`);
  press("Escape");
  const points = JSON.parse(document.querySelector("script[id$='-points']").textContent);
  const svg = canvas.querySelector("svg");
  const box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  const place = { clientX: box.left + points.x[1] * scale, clientY: box.top + points.y[1] * scale, bubbles: true };
  canvas.dispatchEvent(new PointerEvent("pointermove", place));
  facts.push(`hover ${!tip.hidden && tip.textContent.includes("architecture")}`);
  canvas.dispatchEvent(new MouseEvent("click", place));
  facts.push(`clicked ${document.querySelectorAll("tr.fixed").length}`);
  const table = document.querySelector("figure.has-points").closest("section").querySelector("table.sortable");
  const column = [...table.tHead.rows[0].cells].findIndex((head) => head.textContent === "params");
  const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent).join(",");
  table.tHead.rows[0].cells[column].querySelector("button").click();
  facts.push(`sorted ${read()}`);
  facts.push(`wide ${document.documentElement.scrollWidth <= innerWidth}`);
};
addEventListener("load", () => {
  try {
    check();
  } catch (error) {
    facts.push(`error ${error}`);
  }
  document.body.insertAdjacentHTML("beforeend", "<pre id='facts'></pre>");
  document.getElementById("facts").textContent = facts.join("\\n");
});
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 500])
def test_a_browser_draws_points_and_sorts(tmp_path: Path, width: int) -> None:
    assert BROWSER is not None
    content = to_html(search_page(make_study(proxy="nwot", budget={}, evaluations=6, algorithm={"name": "random"})))
    content = re.sub(
        r'<meta http-equiv="Content-Security-Policy"[^>]*>', lambda _: f"<script>{PROBE}</script>", content
    )
    page = tmp_path / "page.html"
    page.write_text(content)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    match = re.search(r'<pre id="facts">(.*?)</pre>', result.stdout, re.DOTALL)
    assert match is not None, result.stdout[-2000:] + result.stderr[-2000:]
    facts = html.unescape(match[1]).splitlines()
    assert facts == ["tip true", "fixed 1", "hover true", "clicked 1", "sorted 5 M,4 M,3 M,2 M,1 M", "wide true"]
