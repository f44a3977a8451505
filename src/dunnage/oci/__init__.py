"""Images as others make them: documents, registries, layers, and trees that come of them. Hostile until verified."""
