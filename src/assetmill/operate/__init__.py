"""Runs: locks, budgets, snapshots and reports."""
