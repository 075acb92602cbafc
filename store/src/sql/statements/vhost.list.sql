select name from vhost order by name
