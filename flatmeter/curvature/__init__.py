"""The engine: products with Hessians, and exact traces by layer."""
