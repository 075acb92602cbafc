delete from policy where kind = ? and vhost = ? and name = ?
