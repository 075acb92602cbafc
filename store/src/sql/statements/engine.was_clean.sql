select clean from engine where id = 1
