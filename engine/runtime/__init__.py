"""Runs the scheduler's steps on a device."""
