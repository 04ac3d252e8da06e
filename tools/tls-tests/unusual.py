# SPDX-License-Identifier: GPL-2.0
"""Programs that use OpenSSL in unusual ways (see programs/) do under mptcp-dc-tls what they do without it, and a key goes
only where it belongs."""

import contextlib
import os
import re
import signal
import subprocess

from lab import Program, await_listener, certificate, check, free_port, nginx_command, run, same, until

PROGRAMS = "/opt/tls-programs"

# What no key can be set on without the module, but would be.
TRIED = {"set", "Protocol not available", "Operation not supported"}


class Report:
    """What programs/scenarios.c says and mptcp-dc-tls logs about it."""

    END = re.compile(r"^(.+): fd (\d+): key ([0-9a-f]{16})$", re.MULTILINE)

    def __init__(self, program):
        self.said = program.said()
        self.ends = [(name, fd, key) for name, fd, key in self.END.findall(self.said)]
        self.keys = program.events().keys

    def own(self):
        """What the program itself said, keys aside."""
        lines = [line for line in self.said.splitlines() if not line.startswith("mptcp-dc-tls[")]
        return [re.sub(r"key [0-9a-f]{16}$", "key", line) for line in lines]

    def expect_keys(self, ends, others=()):
        """Exactly these ends' keys are set on their sockets, or would be with the module. Those of others may be."""
        tried = {(fd, key) for fd, _, key, outcome in self.keys if outcome in TRIED}
        tried -= {(fd, key) for _, fd, key in others}
        same("keys that are set", sorted(tried), sorted((fd, key) for _, fd, key in ends))
        others = [key for key in self.keys if key[3] not in TRIED]
        check(all(key[0] == "-1" for key in others), "keys for something else:", others)


def scenario(names, *plugins, program="with-openssl", wrap=True, **options):
    return Report(run(f"{PROGRAMS}/{program}", names, *(plugins or ["self"]), wrap=wrap, **options))


def compared(names):
    """The report under mptcp-dc-tls of what does the same without."""
    certificate()
    with_it, without = scenario(names), scenario(names, wrap=False)
    same(f"{names} with and without", with_it.own(), without.own())
    check(with_it.ends, "no connection:", with_it.said)
    check(not without.keys, "mptcp-dc-tls where it shouldn't be")
    return with_it


# ---- where keys go ----------------------------------------------------------------------------------------


def a_bio_may_send_by_any_call():
    report = compared("senders")
    same("calls", [end[0] for end in report.ends[::2]], ["send", "sendto", "sendmsg", "sendmmsg", "write", "writev"])
    report.expect_keys(report.ends)


def what_a_bio_logs_is_not_taken_for_what_it_sends():
    report = compared("logged")
    report.expect_keys(report.ends)


def a_bio_that_sends_on_two_connections_gets_no_key():
    compared("mirrored").expect_keys([])


def a_connection_with_two_sockets_gets_no_key():
    compared("two-sockets").expect_keys([])


def tls_within_tls_by_openssls_bio_leaves_the_outer_ones_key():
    report = compared("nested,nested-in-own")
    outer = [end for end in report.ends if end[0] == "outer"]
    same("outer ends", len(outer), 4)
    same("all ends", len(report.ends), 8)
    report.expect_keys(outer)


def buffers_connecting_bios_and_duplicates_get_keys():
    report = compared("buffered,connecting-bio,duplicated")
    report.expect_keys(report.ends)


def tls_12_without_extended_master_secret_gives_no_key():
    report = compared("no-extended-master-secret")
    same("keys", report.keys, [])
    same("refusals", report.said.count("without extended master secret: no key"), 2)


# ---- callbacks -----------------------------------------------------------------------------------------------


def info_callbacks_are_called_as_without_it():
    report = compared("callbacks")
    same("orders of setting them", report.said.count("\ncallbacks") // 3, 64)
    report.expect_keys(report.ends)


# ---- several OpenSSLs -----------------------------------------------------------------------------------------


def another_openssl():
    """A directory with libssl and libcrypto under other names, and the plug-in that uses them, as Python's packages for instance
    bring them."""
    libraries = "/usr/lib/x86_64-linux-gnu"
    os.mkdir("other")
    for source, name in (
        (f"{libraries}/libssl.so.3", "libxyz.so.3"),
        (f"{libraries}/libcrypto.so.3", "libcrxyzo.so.3"),
        (f"{PROGRAMS}/scenarios.so", "other.so"),
    ):
        with open(source, "rb") as file:
            content = file.read()
        # Of the same length: strings in the dynamic section are found by offset.
        content = content.replace(b"libssl.so.3\0", b"libxyz.so.3\0").replace(b"libcrypto.so.3\0", b"libcrxyzo.so.3\0")
        with open(f"other/{name}", "wb") as file:
            file.write(content)
    return os.path.abspath("other")


# Program, plug-ins and, of these, whether keys are set. None: if they can be. The loader binds some past preloaded libraries.
SEVERAL = [
    ("loader", [("local=OWN", True)]),
    ("loader", [("local=OTHER", True)]),
    ("loader", [("local=OWN", True), ("local=OTHER", True)]),
    ("loader", [("local=OTHER", True), ("local=OWN", True)]),
    ("loader", [("global=OWN", True), ("local=OTHER", True)]),
    ("loader", [("local=OWN", True), ("global=OTHER", True)]),
    ("loader", [("local=OWN", True), ("deep=OTHER", False)]),
    ("loader", [("deep=OWN", False), ("local=OTHER", True)]),
    ("loader", [("local=STATIC", False), ("local=OWN", True)]),
    ("loader", [("local=OTHER", True), ("local=STATIC", False)]),
    ("with-openssl", [("self", True), ("local=OTHER", True)]),
    ("with-openssl", [("local=OTHER", True), ("self", True)]),
    ("with-openssl", [("self", True), ("deep=OTHER", False)]),
    # OpenSSL's symbols in the plug-in have no version, so all that are global and have one come before them.
    ("with-openssl", [("local=STATIC", None), ("self", True)]),
]


def each_of_several_openssls_gets_its_own_calls():
    certificate()
    other = another_openssl()
    paths = {"OWN": f"{PROGRAMS}/scenarios.so", "OTHER": f"{other}/other.so", "STATIC": f"{PROGRAMS}/static.so"}
    names = "plain,connecting-bio,errors"
    alone = scenario(names, wrap=False).own()
    wrong = []
    for program, plugins in SEVERAL:
        words = [re.sub("[A-Z]+", lambda word: paths[word[0]], plugin) for plugin, _ in plugins]
        try:
            report = scenario(names, *words, program=program, env={"LD_LIBRARY_PATH": other})
            same("what it says", report.own(), alone * len(plugins))
            each = len(report.ends) // len(plugins)
            expected = [(plugins[number // each][1], end) for number, end in enumerate(report.ends)]
            report.expect_keys(*([end for keys, end in expected if keys is kind] for kind in (True, None)))
        except Exception as error:  # pylint: disable=broad-except
            wrong.append(f"{program} {plugins}: {error}")
    check(not wrong, f"{len(wrong)} of {len(SEVERAL)} are wrong:\n" + "\n".join(wrong))
    return f"{len(SEVERAL)} programs with one or two OpenSSLs"


# ---- OpenSSL's own client and server ---------------------------------------------------------------------------

# Options of server and client. What both say is compared, so -brief, and nothing that shows random numbers.
OPENSSL = [
    ("", ""),
    ("", "-tls1_2"),
    ("-tls1_2 -no_ems", ""),
    ("-cipher ALL:@SECLEVEL=0 -tls1_1", "-cipher ALL:@SECLEVEL=0 -tls1_1"),
    ("-Verify 1 -CAfile cert.pem", "-cert cert.pem -key key.pem"),
    ("-Verify 1 -CAfile cert.pem -verify_return_error", ""),
    ("-nocert -psk 0123 -tls1_2 -cipher PSK", "-psk 0123 -tls1_2 -cipher PSK"),
    ("-psk 0123", "-psk 4567"),
    ("-tls1_3", "-tls1_2"),
    ("", "-verify_hostname another.example"),
    ("-alpn one,two -state", "-alpn two -state"),
    ("-no_ticket -groups X25519", "-groups P-256:X25519"),
    ("-dtls1_2", "-dtls1_2"),
]


def openssl(server_options, client_options, wrap):
    """What OpenSSL's server and client say of one connection, without what is random, and the client's exit status."""
    port = free_port()
    datagrams = "-dtls1_2" in server_options
    server = Program(
        *"openssl s_server -brief -naccept 1 -key key.pem -cert cert.pem -accept".split(), port, *server_options.split(),
        wrap=wrap, stdin=subprocess.PIPE,
    )
    with server:
        if datagrams:
            until("the server", lambda: subprocess.run(["ss", "-Hlun", f"sport = :{port}"], capture_output=True, check=True).stdout)
        else:
            await_listener(server, port)
        client = Program(
            *f"openssl s_client -brief -CAfile cert.pem -verify_return_error -connect 127.0.0.1:{port}".split(),
            *client_options.split(), wrap=wrap, stdin=subprocess.PIPE,
        )
        with client:
            def sees(program, text):
                """Or the connection has failed, maybe only after the client thought that all is well."""
                return until(text, lambda: text in program.said() or client.process.poll() is not None)

            with contextlib.suppress(BrokenPipeError):
                sees(client, "CONNECTION ESTABLISHED")
                client.write(b"from the client\n")
                sees(server, "from the client")
                server.write(b"from the server\n")
                sees(client, "from the server")
                client.write(b"Q\n")
            status = until("the client's end", lambda: client.process.poll() is not None and (client.process.returncode,))
        until("the server's end", lambda: server.process.poll() is not None)

        def plain(text):
            text = re.sub(r"^[0-9A-F]{8,}:error", "ERROR", text.replace(str(port), "PORT"), flags=re.MULTILINE)
            # -state says "error" where it has to wait.
            return sorted({line for line in text.splitlines() if not re.match("mptcp-dc-tls|SSL_.*:error in ", line)})

        return plain(client.said()), plain(server.said()), status[0], server.process.returncode


def openssls_client_and_server_do_what_they_do_without_it():
    certificate()
    established = 0
    for options in OPENSSL:
        without = openssl(*options, wrap=False)
        same(f"openssl {options} without and with", without, openssl(*options, wrap=True))
        established += "CONNECTION ESTABLISHED" in without[0]
    failed = len(OPENSSL) - established
    check(established > 9 and failed > 1, "connections:", established, "failures:", failed)
    return f"{established} kinds of connections, {failed} of failures"


# ---- nginx ----------------------------------------------------------------------------------------------------------


def pid(path):
    """That of a pid file, once it is there."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read() or 0)
    except FileNotFoundError:
        return 0


def upgraded(extra):
    """What nginx said, with these lines in nginx.conf, that was upgraded by SIGUSR2 and then served a file."""
    port = free_port()
    # It ends when its daemon runs. nginx.pid is that of the new one at last.
    starter = run(*nginx_command(1000, port, f"daemon on; {extra}"))
    # A signal that comes before it waits for signals is lost.
    until("its workers", lambda: starter.said().count("start worker process ") == 2)
    old = pid("nginx.pid")
    try:
        os.kill(old, signal.SIGUSR2)
        until("the new nginx", lambda: pid("nginx.pid.oldbin") == old and pid("nginx.pid"))
        os.kill(old, signal.SIGQUIT)
        until("the old one's end", lambda: not pid("nginx.pid.oldbin"))
        run("curl", "-sS", "--cacert", "cert.pem", "-o", "got", f"https://localhost:{port}/file", wrap=False)
    finally:
        os.kill(pid("nginx.pid"), signal.SIGTERM)
        until("its end", lambda: not pid("nginx.pid"))
    return starter


def an_upgraded_nginx_has_keys_if_its_configuration_passes_them_on():
    server = upgraded("env LD_PRELOAD; env MPTCP_DC_TLS_LOG;")
    until("a key", lambda: server.events().keys)
    check("without LD_PRELOAD" not in server.said(), server.said())


def an_nginx_that_loses_its_keys_by_an_upgrade_says_so():
    server = upgraded("")
    same("keys", server.events().keys, [])
    check("/usr/sbin/nginx is started without LD_PRELOAD" in server.said(), server.said())


PLAIN = [
    a_bio_may_send_by_any_call,
    what_a_bio_logs_is_not_taken_for_what_it_sends,
    a_bio_that_sends_on_two_connections_gets_no_key,
    a_connection_with_two_sockets_gets_no_key,
    tls_within_tls_by_openssls_bio_leaves_the_outer_ones_key,
    buffers_connecting_bios_and_duplicates_get_keys,
    tls_12_without_extended_master_secret_gives_no_key,
    info_callbacks_are_called_as_without_it,
    each_of_several_openssls_gets_its_own_calls,
    openssls_client_and_server_do_what_they_do_without_it,
    an_upgraded_nginx_has_keys_if_its_configuration_passes_them_on,
    an_nginx_that_loses_its_keys_by_an_upgrade_says_so,
]


def keys_go_where_they_belong():
    certificate()
    report = scenario("senders,logged,nested,nested-in-own,mirrored,two-sockets")
    without = ("inner", "mirrored", "two sockets")
    report.expect_keys([end for end in report.ends if end[0] not in without])
    same("outcomes", {outcome for _, _, _, outcome in report.keys}, {"set", "no socket"})


KEYS = [keys_go_where_they_belong]
