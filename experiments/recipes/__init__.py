"""Recipes and their ingredients beside each other, at their own best rates."""
