delete from redrive where id = ?
