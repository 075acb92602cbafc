select vhost, user_name, exchange, write, read
from topic_permission
order by vhost, user_name, exchange
