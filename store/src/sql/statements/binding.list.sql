select vhost, source, destination_kind, destination, routing_key, arguments
from binding
order by vhost, source, destination_kind, destination, routing_key, arguments
