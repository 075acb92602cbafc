select page_count, freelist_count
from pragma_page_count(), pragma_freelist_count()
