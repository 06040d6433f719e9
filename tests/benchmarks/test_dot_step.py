"""What a Dot step costs: each variant is what its name says."""

from morse_engine import zoo


def test_variants(monkeypatch):
    import dot_step

    models = dot_step.digits_bench().models
    subject = dot_step.Subject("digits", models, (1, 32, 32), zoo.digits_scheduler())
    monkeypatch.setattr(dot_step, "BATCHES", {dot_step.DIGITS: (1,)})
    seen, moments = [], models.helper.moments

    def counted(*times):
        seen.append(times)
        return moments(*times)

    monkeypatch.setattr(models.helper, "moments", counted)
    rows = dot_step.rows_of(dot_step.DIGITS, subject, 3)
    assert [row["variant"] for row in rows] == ["as sampled", "without the memo", "ops dispatched"]
    assert all(row["value"] == row["lsd_ms"] / row["dot_ms"] for row in rows)
    assert len(seen) > 2 * 6  # in each step of the last two
    assert len(models.helper.memo.made) == 1  # the memo is back, with what the first has made
