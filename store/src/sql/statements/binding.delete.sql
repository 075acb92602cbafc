delete from binding
where vhost = ?
  and source = ?
  and destination_kind = ?
  and destination = ?
  and routing_key = ?
  and arguments = ?
