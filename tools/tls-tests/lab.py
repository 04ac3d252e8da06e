# SPDX-License-Identifier: GPL-2.0
"""What the tests need around them: TAP, programs, certificates, and what mptcp-dc-tls logs."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

PATIENCE = 60  # seconds; nothing healthy takes longer, not even on an emulated CPU
WRAPPED = ["mptcp-dc-tls", "--log"]


class Failure(Exception):
    """What a test finds wrong."""


def check(holds, *explanation):
    if not holds:
        raise Failure(" ".join(str(part) for part in explanation))


def same(what, one, other):
    check(one == other, f"{what}: {one} and {other}")


def run_tests(tests):
    """Runs functions as tests, whose names say the behaviour. The exit status."""
    print("TAP version 13")
    print(f"1..{len(tests)}", flush=True)
    failed = 0
    for number, test in enumerate(tests, 1):
        name = test.__name__.replace("_", " ")
        start = time.monotonic()
        report = ""
        try:
            with tempfile.TemporaryDirectory() as directory:
                before = os.getcwd()
                os.chdir(directory)
                try:
                    report = test() or ""
                finally:
                    os.chdir(before)
        except Exception as error:  # pylint: disable=broad-except
            failed += 1
            report = str(error) if isinstance(error, Failure) else traceback.format_exc()
            print("not ", end="")
        print(f"ok {number} - {name} # {time.monotonic() - start:.1f} s")
        for line in report.splitlines():
            print(f"# {line}")
        sys.stdout.flush()
    return 1 if failed else 0


class Events:
    """What mptcp-dc-tls logged: lines like
    mptcp-dc-tls[7]: socket 5: TLSv1.3 key with SHA-256 0123456789abcdef: set
    """

    KEY = re.compile(r"mptcp-dc-tls\[\d+\]: socket (-?\d+): (\S+) key with SHA-256 ([0-9a-f]{16}): (.*)")

    def __init__(self, text):
        self.text = text
        self.keys = [match.groups() for match in self.KEY.finditer(text)]

    def hashes(self):
        return [key[2] for key in self.keys]

    def outcomes(self):
        return {key[3] for key in self.keys}

    def versions(self):
        return {key[1] for key in self.keys}


class Program:
    """A program in the background, with all that it says in a file. `wrap`: under mptcp-dc-tls, or the command given."""

    count = 0

    def __init__(self, *command, wrap=True, env=None, netns=None, stdin=subprocess.DEVNULL):
        Program.count += 1
        self.path = f"program-{Program.count}.log"
        command = [str(word) for word in command]
        if wrap:
            command = [*(WRAPPED if wrap is True else wrap), *command]
        if netns:
            command = ["ip", "netns", "exec", netns, *command]
        self.command = command
        with open(self.path, "wb") as log:
            # pylint: disable-next=consider-using-with
            self.process = subprocess.Popen(
                command, bufsize=0, stdin=stdin, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )

    def said(self):
        with open(self.path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def events(self):
        return Events(self.said())

    def write(self, data):
        self.process.stdin.write(data)

    def wait(self, status=0):
        """Waits for its end."""
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.stop()
            raise Failure(f"{self.command} does not end\n{self.said()}") from None
        check(self.process.returncode == status, self.command, "ended with", self.process.returncode, self.said())
        return self

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def run(*command, **options):
    """Runs a program to its end, which must be good."""
    with Program(*command, **options) as program:
        return program.wait()


def until(what, condition):
    """Waits until condition() gives something, and returns it."""
    end = time.monotonic() + PATIENCE
    while True:
        got = condition()
        if got:
            return got
        check(time.monotonic() < end, "waited in vain for", what)
        time.sleep(0.05)


def listens(port, netns=None):
    enter = ["ip", "netns", "exec", netns] if netns else []
    return subprocess.run(
        [*enter, "ss", "-Hltn", f"sport = :{port}"], capture_output=True, check=True
    ).stdout


def await_listener(program, port, netns=None):
    def ready():
        check(program.process.poll() is None, program.command, "ended:", program.said())
        return listens(port, netns)

    until(f"port {port}", ready)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def certificate():
    """key.pem and cert.pem for localhost."""
    run(
        *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(),
        *"-keyout key.pem -out cert.pem -subj /CN=localhost -addext".split(),
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.0.1.2",
        wrap=False,
    )


NGINX = """
{extra}
pid {directory}/nginx.pid;
error_log stderr notice;
worker_processes 2;
events {{ worker_connections 256; }}
http {{
    access_log off;
    server {{
        listen {port} ssl reuseport;
        ssl_certificate {directory}/cert.pem;
        ssl_certificate_key {directory}/key.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:tls:1m;
        root {directory}/www;
    }}
}}
"""


def nginx_command(size, port, extra="daemon off;"):
    """To start nginx, which serves `file` of this size over TLS; `extra`: lines of its configuration."""
    directory = os.getcwd()
    os.chmod(directory, 0o755)
    certificate()
    os.mkdir("www")
    with open("www/file", "wb") as file:
        file.write(os.urandom(size))
    with open("nginx.conf", "w", encoding="utf-8") as file:
        file.write(NGINX.format(directory=directory, port=port, extra=extra))
    return "/usr/sbin/nginx", "-p", directory, "-c", f"{directory}/nginx.conf"


@contextlib.contextmanager
def nginx(size, port=None, wrap=True, netns=None):
    """Gives nginx's program and port."""
    port = port or free_port()
    with Program(*nginx_command(size, port), wrap=wrap, netns=netns) as program:
        await_listener(program, port, netns)
        yield program, port


# ---- two hosts -------------------------------------------------------------------------------------------


PATHS = 4


def address(path, host):
    return f"10.0.{path}.{1 if host == 'a' else 2}"


def ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


@contextlib.contextmanager
def two_hosts():
    """
        a 10.0.1.1 ──── 10.0.1.2 b
          10.0.2.1 ──── 10.0.2.2     b announces these addresses;
          10.0.3.1 ──── 10.0.3.2     a, the client, opens a subflow to each
          10.0.4.1 ──── 10.0.4.2
    """
    for host in "ab":
        ip("netns", "add", host)
    try:
        for path in range(1, PATHS + 1):
            ip("link", "add", f"a{path}", "netns", "a", "type", "veth", "peer", "name", f"b{path}", "netns", "b")
            for host in "ab":
                ip("-n", host, "addr", "add", f"{address(path, host)}/24", "dev", f"{host}{path}")
                ip("-n", host, "link", "set", f"{host}{path}", "up")
                if host == "b" and path > 1:
                    ip("-n", host, "mptcp", "endpoint", "add", address(path, host), "signal")
        for host in "ab":
            ip("-n", host, "link", "set", "lo", "up")
            ip("-n", host, "mptcp", "limits", "set", "subflows", PATHS - 1, "add_addr_accepted", PATHS - 1)
        yield
    finally:
        for host in "ab":
            ip("netns", "del", host)


def counter(netns, name):
    """Of the stack: MPTcpExt..."""
    command = ["ip", "netns", "exec", netns, "nstat", "-asz", name]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    return int(lines[-1].split()[1])


@contextlib.contextmanager
def captured(path, netns="b"):
    """Headers, and the first bytes of data, of all that passes on all paths."""
    tcpdump = Program(
        *"tcpdump --immediate-mode -U -i any -s 320 -B 16384 -w".split(), path, "tcp", wrap=False, netns=netns
    )
    with tcpdump:
        until("tcpdump", lambda: "listening on" in tcpdump.said())
        yield
        time.sleep(0.5)
        tcpdump.process.send_signal(signal.SIGINT)
        tcpdump.wait()
    check("\n0 packets dropped by kernel" in tcpdump.said(), "tcpdump lost packets:", tcpdump.said())
