select vhost, component, name, value
from parameter
order by vhost, component, name
