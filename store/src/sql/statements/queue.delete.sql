delete from queue where id = ?
