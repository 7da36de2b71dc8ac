"""Whole jobs from image files to result files: score, evaluate, watch."""
