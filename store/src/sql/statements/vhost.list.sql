select name, description, tags, default_queue_type from vhost order by name
