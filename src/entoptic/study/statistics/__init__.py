"""Statistics of studies, one subject a file. They take plain arrays; persons and units are random in all of them."""
