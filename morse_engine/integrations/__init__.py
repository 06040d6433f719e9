"""Morse inside other stacks."""
