update owner set released = true where epoch = $1
