"""The queue port's two adapters, a real Redis and real worker processes."""
