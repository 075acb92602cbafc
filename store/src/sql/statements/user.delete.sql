delete from "user" where name = ?
