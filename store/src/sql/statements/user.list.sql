select name, password_hash, hashing, tags from "user" order by name
