"""Who launches the steps, on what memory: fused steps, captures, runs, the one-launch loop."""
