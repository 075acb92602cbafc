insert into binding (vhost, source, destination_kind, destination, routing_key, arguments)
values (?, ?, ?, ?, ?, ?)
on conflict do nothing
