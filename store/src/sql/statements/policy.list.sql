select kind, vhost, name, pattern, apply_to, priority, definition
from policy
order by vhost, kind desc, name
