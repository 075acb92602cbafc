select id, vhost, name, durable, exclusive, auto_delete, work, arguments, paused
from queue
order by id
