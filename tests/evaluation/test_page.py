"""The page: what it shows, and that nothing in it is taken for HTML."""

import re

from morse_engine.evaluation import page


def test_page_escapes():
    text = page.render(
        title="<a>",
        verdict="<= 1 & more",
        alone="at batch 1",
        basis="<s>",
        pictures={"<i>\n<u>": b""},
        plot=b"",
        headings=["<h>"],
        cells=[["<c>"]],
        marked="",
        caption="<b>",
        machine={"gpu": None, "cpu": "<cpu>"},
    )
    assert "&lt;= 1 &amp; more" in text
    assert not re.search("<(a|h|c|b|i|u|s|cpu)>", text)
    assert "gpu" not in text


def test_the_page_of_a_pipeline_escapes_and_shows_every_seed():
    cell = {"name": "<i>", "notes": ["<u>"], "picture": b"x", "difference": b"y", "numbers": "<n>"}
    text = page.render_prompted(
        title="<a>",
        verdict="<= 1 & more",
        basis="<s>",
        batches=["<l>", "at batch 1"],
        seeds=[{"prompt": "<q>", "cells": [cell | {"difference": None}, cell]}] * 2,
        at_budget="<m>",
        brightest=0.4,
        costs="<z>",
        elsewhere="<y>",
        lines="<x>",
        plot=b"",
        headings=["<h>"],
        cells=[["Morse, batch 1"], ["<c>"]],
        marked="Morse",
        caption="<b>",
        machine={"cpu": "<cpu>"},
    )
    assert "&lt;= 1 &amp; more" in text
    assert not re.search("<(a|h|c|b|i|u|s|n|l|q|m|x|y|z|cpu)>", text)
    assert text.count("data:image/png;base64,eA==") == 4
    assert text.count("data:image/png;base64,eQ==") == 2
    assert text.count('<tr class="marked">') == 1
    assert "<code>&lt;y&gt;</code>" in text


def test_what_a_verdict_rests_on():
    rows = [{"set": 0, "batch_size": 50, "images": 1200}]
    assert page.basis(rows) == (
        "Batch 50, 1,200 images a point; no interval: three sets of seeds or more give one."
    )
    rows = [rows[0] | {"set": k} for k in range(3)]
    assert "95 %" in page.basis(rows)
    assert "mean of 3 sets" in page.basis(rows)
