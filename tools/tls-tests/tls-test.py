#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Unmodified programs under mptcp-dc-tls: runs as root in a guest of scripts/vm and prints TAP.

Usage: tls-test.py plain [TEXT]...   on a kernel without the module: nothing breaks, both ends export the same key
       tls-test.py keys [TEXT]...    with it, two hosts and four paths: the key makes the HMAC of every subflow
TEXT: only tests whose name contains it. DC_TLS_MEGABYTES: what curl fetches from nginx in the latter (default 100).
"""

import hashlib
import os
import re
import subprocess
import sys

import proof
import unusual
from lab import PATHS, address, captured, counter, ip, two_hosts
from lab import Program, await_listener, certificate, check, free_port, nginx, run, run_tests, same, until

LABEL = "EXPERIMENTAL mptcp-dc key"
VERSIONS = {"-tls1_2": "TLSv1.2", "-tls1_3": "TLSv1.3"}


def s_server(port, *options):
    program = Program(
        "openssl", "s_server", "-accept", port, "-key", "key.pem", "-cert", "cert.pem", *options,
        stdin=subprocess.PIPE,  # it ends connections when it has read all of it
    )
    await_listener(program, port)
    return program


def s_client(port, *options, **kwargs):
    """Its own export is the one to compare with: openssl makes it without mptcp-dc-tls."""
    return Program(
        "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", "cert.pem", "-verify_return_error",
        "-keymatexport", LABEL, "-keymatexportlen", "32", *options, **kwargs,
    )


def exported(client):
    """The hash of what s_client itself exported, as mptcp-dc-tls shows it."""
    found = re.findall(r"Keying material: ([0-9A-F]{64})", client.said())
    check(found, "s_client exported nothing:", client.said())
    return hashlib.sha256(bytes.fromhex(found[-1])).hexdigest()[:16]


def curl(port, *options, **kwargs):
    """What was logged while curl fetched the file that nginx serves."""
    program = run(
        "curl", "-sS", "--cacert", "cert.pem", "-o", "got", *options, f"https://localhost:{port}/file", **kwargs
    )
    with open("got", "rb") as got, open("www/file", "rb") as served:
        one, other = got.read(), served.read()
        check(one == other, f"curl got another file: {len(one)} bytes of {len(other)}: {one[:200]}")
    return program.events()


# ---- without the module ----------------------------------------------------------------------------------


def nginx_serves_curl_and_both_export_the_same_key():
    with nginx(2_000_000) as (server, port):
        clients = [curl(port, "--tls-max", "1.2"), curl(port, "--tls-max", "1.3")]
        for client, version in zip(clients, VERSIONS.values()):
            same("TLS version", client.versions(), {version})
            check(int(client.keys[0][0]) >= 0, "curl's socket was not found", client.keys)
        until("nginx's keys", lambda: len(server.events().keys) == 2)
        same("keys", clients[0].hashes() + clients[1].hashes(), server.events().hashes())


def without_the_module_sockets_are_plain_tcp_and_say_so():
    with nginx(1000) as (server, port):
        client = curl(port)
        for said in client.text, server.said():
            check("so it's TCP" in said, "no socket was refused:", said)
        check(client.outcomes() and "set" not in client.outcomes(), "a key was set:", client.text)


def a_server_without_it_does_not_matter():
    with nginx(100_000, wrap=False) as (_, port):
        curl(port)


def a_client_without_it_does_not_matter():
    with nginx(100_000) as (_, port):
        curl(port, wrap=False)


def what_is_exported_is_what_openssl_itself_exports():
    certificate()
    port = free_port()
    with s_server(port, "-www") as server:
        for number, (option, version) in enumerate(VERSIONS.items(), 1):
            with s_client(port, option) as client:
                client.wait()
            same(f"client's {version} key", client.events().hashes(), [exported(client)])
            same(f"server's {version} key", server.events().hashes()[number - 1:], [exported(client)])
            same("TLS version", client.events().versions(), {version})


def session(port, version, save):
    """A connection that saves its session, which TLS 1.3 sends some time after the handshake."""
    with s_client(port, version, "-sess_out", save, stdin=subprocess.PIPE) as client:
        until("its session", lambda: os.path.exists(save) and os.path.getsize(save))
        client.write(b"Q\n")
        return client.wait()


def a_resumed_session_has_a_key_of_its_own():
    certificate()
    port = free_port()
    with s_server(port) as server:
        for option, version in VERSIONS.items():
            first = session(port, option, version)
            with s_client(port, option, "-sess_in", version) as second:
                second.wait()
            check("New, " in first.said() and "Reused, " in second.said(), version, "was not resumed", second.said())
            keys = [exported(first), exported(second)]
            check(keys[0] != keys[1], version, "used one key twice")
            same(f"client's {version} keys", first.events().hashes() + second.events().hashes(), keys)
            same(f"server's {version} keys", server.events().hashes()[-2:], keys)


def renegotiation_replaces_the_key():
    certificate()
    port = free_port()
    with s_server(port, "-client_renegotiation") as server:
        with s_client(port, "-tls1_2", stdin=subprocess.PIPE) as client:
            until("the handshake", lambda: "Verify return code" in client.said())
            client.write(b"R\n")
            keys = until("another key", lambda: len(client.events().hashes()) == 2 and client.events().hashes())
            check(keys[0] != keys[1], "the same key again")
            until("the server's", lambda: len(server.events().hashes()) == 2)
            same("keys", server.events().hashes(), keys)


def a_key_update_leaves_the_key():
    certificate()
    port = free_port()
    with s_server(port) as server:
        with s_client(port, "-tls1_3", "-msg", stdin=subprocess.PIPE) as client:
            until("the handshake", lambda: "Verify return code" in client.said())
            client.write(b"K\n")
            # What is read together with the command would be lost.
            until("the key update", lambda: "KEYUPDATE" in client.said())
            client.write(b"after the update\n")
            until("data under the new keys", lambda: "after the update" in server.said())
            check("KeyUpdate" in client.said(), "no key update:", client.said())
            same("keys of the client", client.events().hashes(), [exported(client)])
            same("keys of the server", server.events().hashes(), [exported(client)])


def early_data_arrives_and_the_key_is_that_of_the_whole_handshake():
    certificate()
    port = free_port()
    with open("early", "wb") as file:
        file.write(b"early bird\n")
    with s_server(port, "-early_data") as server:
        session(port, "-tls1_3", "session")
        with s_client(port, "-tls1_3", "-sess_in", "session", "-early_data", "early", stdin=subprocess.PIPE) as client:
            until("early data", lambda: "Early data was accepted" in client.said())
            until("the server's key", lambda: len(server.events().hashes()) == 2)
            check("early bird" in server.said(), "the early data is lost:", server.said())
            same("client's key", client.events().hashes(), [exported(client)])
            same("server's key", server.events().hashes()[1:], [exported(client)])


def a_programs_own_info_callback_is_called():
    certificate()
    port = free_port()
    with s_server(port, "-www", "-state") as server:
        traces = []
        for wrap in True, False:
            with s_client(port, "-tls1_3", "-state", wrap=wrap) as client:
                client.wait()
            trace = [line for line in client.said().splitlines() if line.startswith("SSL_connect:")]
            # Session tickets follow, as many as arrive before the client leaves.
            traces.append(trace[: trace.index("SSL_connect:SSLv3/TLS write finished") + 1])
        check("SSL_accept:" in server.said(), "the server traced nothing")
        check(len(traces[0]) > 5, "the client traced nothing")
        same("traces with and without", *traces)


def a_program_that_watches_its_bios_keeps_that():
    certificate()
    port = free_port()
    with s_server(port, "-www", "-debug") as server, s_client(port, "-debug") as client:
        client.wait()
        check("write to" in client.said() and "read from" in server.said(), "no dump of data")
        same("keys", client.events().hashes(), server.events().hashes())


def symbols_are_bound_at_once():
    with nginx(1000) as (server, port):
        client = curl(port, env={"LD_BIND_NOW": "1"})
        until("nginx's key", lambda: server.events().hashes())
        same("keys", client.hashes(), server.events().hashes())


# Python's ssl is a plug-in: libssl is not in the scope of programs that the loader starts with.
THREADS = """
import socket, ssl, sys, threading
port, threads, rounds = map(int, sys.argv[1:])
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("cert.pem", "key.pem")
client = ssl.create_default_context(cafile="cert.pem")

def serve(connection):
    with server.wrap_socket(connection, server_side=True) as tls:
        tls.sendall(tls.recv(100))
        tls.recv(1)

def accept(listener):
    for _ in range(threads * rounds):
        threading.Thread(target=serve, args=[listener.accept()[0]]).start()

def fetch(number):
    for turn in range(rounds):
        text = f"{number} {turn}".encode()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            with client.wrap_socket(connection, server_hostname="localhost") as tls:
                tls.sendall(text)
                assert tls.recv(100) == text

with socket.create_server(("127.0.0.1", port)) as listener:
    acceptor = threading.Thread(target=accept, args=[listener])
    acceptor.start()
    fetchers = [threading.Thread(target=fetch, args=[number]) for number in range(threads)]
    for thread in fetchers:
        thread.start()
    for thread in fetchers + [acceptor]:
        thread.join()
"""


def many_threads_of_a_program_that_loads_openssl_as_a_plug_in():
    certificate()
    threads, rounds = 8, 6
    program = run("python3", "-c", THREADS, free_port(), threads, rounds)
    hashes = program.events().hashes()
    same("keys", len(hashes), 2 * threads * rounds)
    for one in set(hashes):
        check(hashes.count(one) == 2, "a key that one end has alone:", one)
    same("connections", len(set(hashes)), threads * rounds)


MEMORY = """
import socket, ssl, sys
context = ssl.create_default_context(cafile="cert.pem")
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(65536))
    tls.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    connection.sendall(outgoing.read())
    print(connection.recv(100) and "answered")
"""


def tls_that_goes_through_memory_gets_no_key_and_works():
    certificate()
    port = free_port()
    with s_server(port, "-www"):
        client = run("python3", "-c", MEMORY, port)
        check("answered" in client.said(), "no answer:", client.said())
        same("sockets", [(key[0], key[3]) for key in client.events().keys], [("-1", "no socket")])


# A proxy that is spoken to by TLS and that TLS goes through.
PROXY = """
import socket, ssl, sys, threading
port = int(sys.argv[1])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")

def pump(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)

with socket.create_server(("127.0.0.1", port)) as listener:
    with context.wrap_socket(listener.accept()[0], server_side=True) as client:
        request = b""
        while b"\\r\\n\\r\\n" not in request:
            request += client.recv(4096)
        host, to = request.split()[1].split(b":")
        with socket.create_connection((host, int(to))) as server:
            client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
            client.settimeout(0.1)
            server.settimeout(0.1)
            idle = 0
            while idle < 20:
                idle += 1
                for source, sink in (client, server), (server, client):
                    try:
                        if data := source.recv(65536):
                            sink.sendall(data)
                            idle = 0
                    except TimeoutError:
                        pass
"""


def tls_within_tls_leaves_the_outer_ones_key():
    with nginx(10_000) as (_, port):
        through = free_port()
        with Program("python3", "-c", PROXY, through) as proxy:
            await_listener(proxy, through)
            client = curl(port, "--proxy", f"https://localhost:{through}", "--proxy-cacert", "cert.pem")
            keys = client.keys
            same("handshakes", len(keys), 2)
            same("the outer one's key", keys[0][2], until("the proxy's key", lambda: proxy.events().hashes())[0])
            check(int(keys[0][0]) >= 0, "the outer one has no socket", keys)
            same("the inner one's socket", keys[1][0], "-1")


def the_rustls_example_works_without_the_module():
    port = free_port()
    with Program("tls", "serve", f"127.0.0.1:{port}", "tls.pem", wrap=False) as server:
        await_listener(server, port)
        client = run("tls", "fetch", f"127.0.0.1:{port}", "tls.pem", 1_000_000, wrap=False)
        check("1000000 bytes received, TLSv1_3, no key: " in client.said(), client.said())
        until("the server's report", lambda: "1000000 bytes sent, TLSv1_3, no key: " in server.said())


def programs_without_tls_do_not_notice():
    check(subprocess.run(["mptcp-dc-tls", "sh", "-c", "exit 7"], check=False).returncode == 7, "exit status")
    check(subprocess.run(["mptcp-dc-tls", "/no/such/program"], check=False, stderr=subprocess.DEVNULL).returncode == 127,
          "exit status of what is not found")
    silent = subprocess.run(["mptcp-dc-tls", "curl", "--version"], capture_output=True, check=True)
    check(not silent.stderr, "it logs without being asked to:", silent.stderr)
    port = free_port()
    with Program("python3", "-m", "http.server", port) as server:
        await_listener(server, port)
        check("program-" in run("curl", "-sS", f"http://127.0.0.1:{port}/").said(), "no answer")


def only_openssl_3_is_intercepted():
    # Whoever asks for no version, or for that of another library, must not find our functions.
    code = "import ctypes; ctypes.CDLL(None).SSL_CTX_new"
    found = subprocess.run(["mptcp-dc-tls", "python3", "-c", code], capture_output=True, check=False, text=True)
    check(found.returncode != 0 and "undefined symbol: SSL_CTX_new" in found.stderr, found)


# ---- with the module --------------------------------------------------------------------------------------

PORT = 443
JOINS = PATHS - 1


def fetch(*options, wrap=True, env=None):
    """As curl(), from host a to nginx on host b."""
    program = run(
        "curl", "-sS", "--cacert", "cert.pem", *options, "-o", "got", f"https://{address(1, 'b')}:{PORT}/file",
        wrap=wrap, netns="a", env=env,
    )
    with open("got", "rb") as got, open("www/file", "rb") as served:
        one, other = got.read(), served.read()
        check(one == other, f"curl got another file: {len(one)} bytes of {len(other)}: {one[:200]}")
    return program.events()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def download_over_four_subflows(version, megabytes):
    size = int(os.environ.get("DC_TLS_MEGABYTES", megabytes)) << 20
    with two_hosts(), nginx(size, PORT, netns="b") as (server, _):
        with captured("capture"):
            # nginx may set its key a moment after curl does: the first joins are dropped then, and come again after a
            # second. The file is asked for when they have.
            wait = ["--rate", "30/m", "-o", "/dev/null", f"https://{address(1, 'b')}:{PORT}/"]
            client = fetch("--tls-max", version, *wait, env={"SSLKEYLOGFILE": "keylog"})
        until("nginx's key", lambda: server.events().hashes())
        same("outcomes", client.outcomes() | server.events().outcomes(), {"set"})
        same("keys", client.hashes(), server.events().hashes())
        same("TLS version", client.versions(), {f"TLSv{version}"})

        whole, key, joins, wire = proof.prove(read("capture"), read("keylog").decode())
        same("the key's hash", [hashlib.sha256(key).hexdigest()[:16]], client.hashes())
        same("joins", len(joins), JOINS)
        same("joins that the server counted", counter("b", "MPTcpExtMPJoinAckRx"), JOINS)
        carried = {path: 0 for path in [(whole.client, whole.server), *(join.path for join in joins)]}
        for segment in wire:
            back = segment.target, segment.source
            if back in carried:
                carried[back] += segment.length
        check(all(carried.values()), "subflows that carried nothing:", carried)
        return "\n".join(
            [f"port {path[0][1]}: {length} bytes" for path, length in carried.items()]
            + [f"HMAC_B {join.hmac_b.hex()}, HMAC_A {join.hmac_a.hex()}: as computed" for join in joins]
        )


def with_tls_13_the_exported_key_makes_the_hmacs_of_four_subflows():
    return download_over_four_subflows("1.3", 100)


def with_tls_12_the_exported_key_makes_the_hmacs_of_four_subflows():
    return download_over_four_subflows("1.2", 100)


def joined(netns="b", more=JOINS):
    until(f"{more} subflows", lambda: counter(netns, "MPTcpExtMPJoinAckRx") == more)


def rustls_and_openssl_agree_on_the_key():
    with two_hosts(), Program("tls", "serve", f"0.0.0.0:{PORT}", "tls.pem", wrap=False, netns="b") as server:
        await_listener(server, PORT, "b")
        client = Program(
            "openssl", "s_client", "-connect", f"{address(1, 'b')}:{PORT}", "-CAfile", "tls.pem",
            netns="a", stdin=subprocess.PIPE,
        )
        with client:
            joined()
            same("outcome", client.events().outcomes(), {"set"})
            client.write((1000).to_bytes(8, "big"))
            until("the server's report", lambda: "1000 bytes sent, TLSv1_3, key set" in server.said())


def rustls_at_both_ends():
    with two_hosts(), Program("tls", "serve", f"0.0.0.0:{PORT}", "tls.pem", wrap=False, netns="b") as server:
        await_listener(server, PORT, "b")
        client = run("tls", "fetch", f"{address(1, 'b')}:{PORT}", "tls.pem", 10 << 20, wrap=False, netns="a")
        check("TLSv1_3, key set" in client.said(), client.said())
        joined()


def no_key_crosses_the_wire(capture):
    """Where an end refuses external keys: plain TCP, no key field of any version in the capture."""
    wire = list(proof.segments(read(capture)))
    check(wire, "nothing captured")
    for segment in wire:
        for option in segment.options:
            check(len(option) <= 4, "an MPTCP option with more than its flags:", option.hex())


def a_server_that_does_not_ask_for_keys_gets_plain_tcp():
    with two_hosts(), nginx(1 << 20, PORT, wrap=False, netns="b"):
        with captured("capture"):
            client = fetch()
        same("outcomes", client.outcomes(), {"Operation not supported"})
        no_key_crosses_the_wire("capture")


def a_server_with_mptcp_but_no_keys_gets_plain_tcp():
    with two_hosts(), nginx(1 << 20, PORT, wrap=["mptcpize", "run"], netns="b"):
        with captured("capture"):
            client = fetch()
        same("outcomes", client.outcomes(), {"Operation not supported"})
        no_key_crosses_the_wire("capture")


def a_client_with_mptcp_but_no_keys_gets_plain_tcp():
    with two_hosts(), nginx(1 << 20, PORT, netns="b") as (server, _):
        with captured("capture"):
            fetch(wrap=["mptcpize", "run"])
        # What a listener accepts without MPTCP is a TCP socket.
        until("the server's report", lambda: server.events().outcomes())
        same("outcomes", server.events().outcomes(), {"Protocol not available"})
        wire = list(proof.segments(read("capture")))
        answers = [option for segment in wire if segment.source[1] == PORT for option in segment.options]
        same("MPTCP options of the server", answers, [])


def the_key_of_a_renegotiation_replaces_the_first():
    # There are no other paths until then.
    with two_hosts():
        certificate()
        ip("-n", "b", "mptcp", "endpoint", "flush")
        server = Program(
            *"openssl s_server -client_renegotiation -key key.pem -cert cert.pem -accept".split(), PORT,
            netns="b", stdin=subprocess.PIPE,
        )
        with server:
            await_listener(server, PORT, "b")
            client = Program(
                "openssl", "s_client", "-tls1_2", "-connect", f"{address(1, 'b')}:{PORT}",
                netns="a", stdin=subprocess.PIPE,
            )
            with client:
                until("a key", lambda: client.events().hashes() and server.events().hashes())
                client.write(b"R\n")
                until("two keys", lambda: len(client.events().keys) == len(server.events().keys) == 2)
                same("outcomes", client.events().outcomes() | server.events().outcomes(), {"set"})
                same("subflows so far", counter("b", "MPTcpExtMPJoinAckRx"), 0)
                for path in range(2, PATHS + 1):
                    ip("-n", "b", "mptcp", "endpoint", "add", address(path, "b"), "signal")
                joined()
                client.write(b"over all of them\n")
                until("data", lambda: "over all of them" in server.said())


def many_connections_at_once_have_a_key_each():
    count = 20
    with two_hosts(), nginx(100_000, PORT, netns="b") as (server, _):
        url = f"https://{address(1, 'b')}:{PORT}/file"
        urls = [word for number in range(count) for word in (url, "-o", f"got-{number}")]
        # HTTP/1.1, or all would share one connection.
        client = run(
            *"curl -sS --http1.1 --cacert cert.pem --parallel --parallel-immediate --parallel-max".split(), count,
            *urls, netns="a",
        ).events()
        for number in range(count):
            check(read(f"got-{number}") == read("www/file"), "curl got another file")
        until("nginx's keys", lambda: len(server.events().keys) == len(client.keys))
        same("keys", sorted(client.hashes()), sorted(server.events().hashes()))
        same("outcomes", client.outcomes() | server.events().outcomes(), {"set"})
        check(len(set(client.hashes())) == len(client.keys) >= count // 2, "connections:", client.keys)


KEYS = [
    with_tls_13_the_exported_key_makes_the_hmacs_of_four_subflows,
    with_tls_12_the_exported_key_makes_the_hmacs_of_four_subflows,
    rustls_and_openssl_agree_on_the_key,
    rustls_at_both_ends,
    a_server_that_does_not_ask_for_keys_gets_plain_tcp,
    a_server_with_mptcp_but_no_keys_gets_plain_tcp,
    a_client_with_mptcp_but_no_keys_gets_plain_tcp,
    the_key_of_a_renegotiation_replaces_the_first,
    many_connections_at_once_have_a_key_each,
    *unusual.KEYS,
]

PLAIN = [
    nginx_serves_curl_and_both_export_the_same_key,
    without_the_module_sockets_are_plain_tcp_and_say_so,
    a_server_without_it_does_not_matter,
    a_client_without_it_does_not_matter,
    what_is_exported_is_what_openssl_itself_exports,
    a_resumed_session_has_a_key_of_its_own,
    renegotiation_replaces_the_key,
    a_key_update_leaves_the_key,
    early_data_arrives_and_the_key_is_that_of_the_whole_handshake,
    a_programs_own_info_callback_is_called,
    a_program_that_watches_its_bios_keeps_that,
    symbols_are_bound_at_once,
    many_threads_of_a_program_that_loads_openssl_as_a_plug_in,
    tls_that_goes_through_memory_gets_no_key_and_works,
    tls_within_tls_leaves_the_outer_ones_key,
    the_rustls_example_works_without_the_module,
    programs_without_tls_do_not_notice,
    only_openssl_3_is_intercepted,
    *unusual.PLAIN,
]


def main():
    if sys.argv[1:2] == ["plain"]:
        tests = PLAIN
    elif sys.argv[1:2] == ["keys"]:
        subprocess.run(["modprobe", "mptcp_dc"], check=True)
        tests = KEYS
    else:
        print(__doc__.split("\n\n")[1], file=sys.stderr)
        return 2
    wanted = sys.argv[2:]
    tests = [test for test in tests if not wanted or any(text in test.__name__ for text in wanted)]
    return run_tests(tests)


if __name__ == "__main__":
    sys.exit(main())
