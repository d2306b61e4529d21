"""No event loop: the blocking face, as in a script or in the cells of a notebook."""

import psycopg

import ssmnet

forward = ssmnet.blocking.forward("i-0123456789abcdef0", 5432, host="db.internal")
with forward as port:
    place = f"host=db.internal hostaddr=127.0.0.1 port={port} sslmode=verify-full"
    with psycopg.connect(f"{place} sslrootcert=system user=app dbname=app") as connection:
        for number, price in connection.execute("SELECT number, price FROM orders"):
            print(f"order {number}: {price} EUR")

with ssmnet.blocking.connect("i-0123456789abcdef0") as target:
    print(target.run("echo", "free disk:", "plenty", timeout=30).stdout.decode(), end="")
