delete from parameter where vhost = ?
