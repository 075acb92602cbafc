select name, description, tags from vhost order by name
