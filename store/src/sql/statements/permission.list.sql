select vhost, user_name, configure, write, read
from permission
order by vhost, user_name
