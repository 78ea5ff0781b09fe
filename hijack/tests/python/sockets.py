"""Python's socket, selectors, asyncio, socketserver and subprocess over the engine's network."""
import asyncio
import os
import selectors
import socket
import socketserver
import subprocess
import sys
import threading

HERE = "10.99.0.1"


def is_accelerated(sock):
    # An anchor is a socket of the kernel, but none of its TCP: it is in no list of those.
    inode = os.fstat(sock.fileno()).st_ino
    with open("/proc/net/unix") as unix:
        return any(line.split()[6] == str(inode) for line in unix.readlines()[1:])


def listener():
    server = socket.create_server(("0.0.0.0", 0))
    assert is_accelerated(server)
    assert server.family == socket.AF_INET and server.getsockname()[1] != 0
    return server, server.getsockname()[1]


def plain():
    server, port = listener()
    client = socket.create_connection((HERE, port), timeout=10)
    assert is_accelerated(client)
    other, address = server.accept()
    assert address == client.getsockname()
    block = os.urandom(3_000_000)
    sender = threading.Thread(target=lambda: (client.sendall(block), client.shutdown(socket.SHUT_WR)))
    sender.start()
    got = b""
    while part := other.recv(1 << 16):
        got += part
    sender.join()
    assert got == block
    with other.makefile("rwb") as stream:
        stream.write(b"a line\n")
        stream.flush()
    assert client.recv(100) == b"a line\n"
    client.settimeout(0.05)
    try:
        client.recv(1)
        raise AssertionError("nothing was sent")
    except TimeoutError:
        pass
    # socket(fileno=...) asks the descriptor what it is.
    again = socket.socket(fileno=os.dup(client.fileno()))
    assert (again.family, again.type, again.proto) == (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)


def with_selectors():
    for kind in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
        server, port = listener()
        server.setblocking(False)
        with kind() as selector:
            selector.register(server, selectors.EVENT_READ, "accept")
            clients = [socket.create_connection((HERE, port)) for _ in range(5)]
            done = 0
            while done < 5:
                for key, _ in selector.select(timeout=10):
                    if key.data == "accept":
                        other, _ = server.accept()
                        selector.register(other, selectors.EVENT_READ, "echo")
                    elif data := key.fileobj.recv(100):
                        key.fileobj.sendall(data)
                    else:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        done += 1
                for number, client in enumerate(clients):
                    if client is not None:
                        client.sendall(b"%d" % number)
                        client.shutdown(socket.SHUT_WR)
                        clients[number] = None
        server.close()


def with_asyncio():
    async def serve(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def ask(port, number):
        reader, writer = await asyncio.open_connection(HERE, port)
        for turn in range(20):
            question = b"%d/%d;" % (number, turn)
            writer.write(question)
            await writer.drain()
            assert await reader.readexactly(len(question)) == question
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(serve, "0.0.0.0", 0, family=socket.AF_INET)
        port = server.sockets[0].getsockname()[1]
        await asyncio.wait_for(asyncio.gather(*(ask(port, number) for number in range(30))), 50)
        process = await asyncio.create_subprocess_exec("/bin/echo", "child", stdout=subprocess.PIPE)
        assert (await process.communicate())[0] == b"child\n"
        server.close()

    asyncio.run(main())


def with_children():
    server, port = listener()
    client = socket.create_connection((HERE, port))
    other, _ = server.accept()
    assert subprocess.run(["/bin/echo", "hi"], capture_output=True, check=True).stdout == b"hi\n"
    # A program without the library reads and writes the connection as its standard streams.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    child = subprocess.Popen(["/bin/cat"], stdin=other, stdout=other, env=environment)
    other.close()
    client.sendall(b"through cat")
    assert client.recv(100) == b"through cat"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b""
    assert child.wait(10) == 0


def with_socketserver():
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(self.rfile.readline().upper())

    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        for _ in range(10):
            with socket.create_connection((HERE, server.server_address[1]), timeout=10) as client:
                client.sendall(b"shout\n")
                assert client.recv(100) == b"SHOUT\n"
        server.shutdown()
        thread.join()


for case in (plain, with_selectors, with_asyncio, with_children, with_socketserver):
    case()
    print(case.__name__, "ok", file=sys.stderr)
