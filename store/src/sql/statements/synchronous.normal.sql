pragma synchronous = normal
