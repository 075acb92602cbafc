delete from exchange where vhost = ? and name = ?
