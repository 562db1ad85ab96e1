"""Model bundles: the manifest, the places where bundles live, their verification."""
