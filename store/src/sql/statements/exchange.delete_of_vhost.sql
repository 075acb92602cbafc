delete from exchange where vhost = ?
