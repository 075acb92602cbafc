pragma synchronous = full
