"""The specification: plans, solvers as tables, noise, and the loop in plain PyTorch."""
