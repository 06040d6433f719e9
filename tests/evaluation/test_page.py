"""The page: what it shows, and that nothing in it is taken for HTML."""

import re

from morse_engine.evaluation import page


def test_page_escapes():
    text = page.render(
        title="<a>",
        verdict="<= 1 & more",
        pictures={"<i>\n<u>": b""},
        plot=b"",
        headings=["<h>"],
        cells=[["<c>"]],
        marked="",
        caption="<b>",
        machine={"gpu": None, "cpu": "<cpu>"},
    )
    assert "&lt;= 1 &amp; more" in text
    assert not re.search("<(a|h|c|b|i|u|cpu)>", text)
    assert "gpu" not in text
