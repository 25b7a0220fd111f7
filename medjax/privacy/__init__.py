"""Differential privacy: sampling, mechanisms and accounting will share this room."""
