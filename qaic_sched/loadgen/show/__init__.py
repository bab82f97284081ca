"""Presents a report: terminal, page, plots and files."""
