pragma page_size
