"""Measurements of trained runs and of toy models: subcommands of `nest-analyze`, and their mathematics."""
