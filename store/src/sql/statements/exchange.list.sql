select vhost, name, kind, durable, auto_delete, internal, arguments
from exchange
order by vhost, name
