"""Two connections by OpenSSL, which do as each line of the standard input says; each answers with a line of its own."""

import http.client
import socket
import ssl
import sys

port, authority, version = int(sys.argv[1]), sys.argv[2], sys.argv[3]
REQUEST = b"GET /generation HTTP/1.1\r\nHost: localhost\r\n\r\n"
context = ssl.create_default_context(cafile=authority)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]


class Counted(http.client.HTTPSConnection):
    """Connects again by itself when its connection has ended."""

    connects = 0

    def connect(self):
        super().connect()
        self.connects += 1


class Cut:
    """A connection that ends with an error when the server ends it, and whose records can be sent in parts."""

    def __init__(self, session=None):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost", session=session)
        self.complete(self.tls.do_handshake)

    def complete(self, step, *args):
        while True:
            try:
                result = step(*args)
                self.socket.sendall(self.outgoing.read())
                return result
            except ssl.SSLWantReadError:
                self.socket.sendall(self.outgoing.read())
                received = self.socket.recv(65536)
                if not received:
                    raise EOFError("the server has closed the connection")
                self.incoming.write(received)

    def begin(self, share):
        self.tls.write(REQUEST)
        record = self.outgoing.read()
        at = 1 + int(share * (len(record) - 2))
        self.socket.sendall(record[:at])
        self.rest = record[at:]

    def end(self):
        self.socket.sendall(self.rest)
        response = b""
        while b"\r\n\r\n" not in response:
            response += self.complete(self.tls.read, 65536)
        head, body = response.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 200 ") and b"close" not in head.lower(), response
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self.complete(self.tls.read, 65536)
        return body.decode()


kept, cut = Counted("localhost", port, context=context), Cut()
for line in sys.stdin:
    words = line.split()
    if words[0] == "get":
        kept.request("GET", "/generation")
        response = kept.getresponse()
        print(response.read().decode(), kept.connects, kept.sock.getsockname()[1], response.will_close, flush=True)
    elif words[0] == "half":
        kept.sock.sendall(REQUEST[:20])
        cut.begin(float(words[1]))
        print("sent", flush=True)
    elif words[0] == "rest":
        kept.sock.sendall(REQUEST[20:])
        response = http.client.HTTPResponse(kept.sock)
        response.begin()
        response.read()
        cut.end()
        print("answered", response.will_close, flush=True)
    elif words[0] == "resume":
        again = Cut(cut.tls.session)
        again.begin(0.5)
        print(again.end(), again.tls.session_reused, flush=True)
