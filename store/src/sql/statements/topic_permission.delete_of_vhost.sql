delete from topic_permission where vhost = ?
