"""Pipelines: their language, and the stages that need no model."""
