truncate journal_{journal}
