"""Statistics, tables, figures and diagnostics of what a study stored."""
