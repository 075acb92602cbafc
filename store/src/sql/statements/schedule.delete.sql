delete from schedule where name = ?
