delete from parameter where vhost = ? and component = ? and name = ?
