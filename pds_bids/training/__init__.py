"""Fit a method and write a model bundle."""
