"""Making images: unpacking, packing, converting."""
