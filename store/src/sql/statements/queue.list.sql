select id, vhost, name, durable, exclusive, auto_delete, work, arguments
from queue
order by id
