"""Tests that mean harm: odd input by the million, hostile words, whatever may come from outside."""
