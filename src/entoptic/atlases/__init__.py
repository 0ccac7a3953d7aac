"""Maps of many points, photos or units, and how faithful each map is; see docs/atlas.md."""
