"""Figures from arrays, and the page that shows them."""
