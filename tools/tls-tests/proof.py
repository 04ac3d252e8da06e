#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Reproduces, from what a program exported and what crossed the wire, every HMAC of a connection's subflows.

It shares nothing with the module, and neither asks a kernel nor OpenSSL: captures are parsed, keys derived and HMACs
computed here, after Documentation/protocol.rst, RFC 5246, RFC 5705, RFC 8446 and RFC 8684.

Usage: proof.py CAPTURE KEYLOG    CAPTURE: pcap of one connection from its start; KEYLOG: its SSLKEYLOGFILE
"""

import hashlib
import hmac
import struct
import sys
from collections import namedtuple

LABEL = b"EXPERIMENTAL mptcp-dc key"
KEY_LENGTH = 32

ETHERNET, LINUX_SLL2 = 1, 276
IPV4, IPV6 = 0x0800, 0x86DD
FIN, SYN, ACK = 0x01, 0x02, 0x10
MPTCP = 30
CAPABLE, JOIN, ADD_ADDR = 0, 1, 3
WITH_KEY = 0x40  # the flag B of MP_CAPABLE

Segment = namedtuple("Segment", "source target flags options payload length")


class Wrong(Exception):
    """What doesn't hold."""


# ---- packets -----------------------------------------------------------------------------------------------


def segments(capture):
    """TCP segments of a pcap file, with their MPTCP options, each as bytes from its kind on."""
    magic = capture[:4]
    if magic not in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"):
        raise Wrong("no pcap file")
    link = struct.unpack_from("<I", capture, 20)[0]
    at = 24
    while at + 16 <= len(capture):
        stored, size = struct.unpack_from("<II", capture, at + 8)
        frame = capture[at + 16:at + 16 + stored]
        at += 16 + stored
        if link == ETHERNET:
            ethertype, packet = struct.unpack_from(">H", frame, 12)[0], frame[14:]
        elif link == LINUX_SLL2:
            ethertype, packet = struct.unpack_from(">H", frame)[0], frame[20:]
        else:
            raise Wrong(f"link type {link}")
        segment = parse_ip(ethertype, packet)
        if segment:
            yield segment


def parse_ip(ethertype, packet):
    if ethertype == IPV4 and packet[9] == 6:
        header = (packet[0] & 15) * 4
        length = struct.unpack_from(">H", packet, 2)[0] - header
        return parse_tcp(packet[12:16], packet[16:20], packet[header:], length)
    if ethertype == IPV6 and packet[6] == 6:
        length = struct.unpack_from(">H", packet, 4)[0]
        return parse_tcp(packet[8:24], packet[24:40], packet[40:], length)
    return None


def parse_tcp(source, target, tcp, length):
    ports = struct.unpack_from(">HH", tcp)
    header = (tcp[12] >> 4) * 4
    options, rest = [], tcp[20:header]
    while rest and rest[0] != 0:
        size = 1 if rest[0] == 1 else rest[1]
        if rest[0] == MPTCP:
            options.append(rest[:size])
        rest = rest[size:]
    return Segment((source, ports[0]), (target, ports[1]), tcp[13], options, tcp[header:], length - header)


def subtype(option):
    return option[2] >> 4


# ---- the connection ----------------------------------------------------------------------------------------

Join = namedtuple("Join", "path hmac_b expected_b hmac_a expected_a")
Connection = namedtuple("Connection", "client server key_a key_b")


def connection(wire):
    """Both ends and both key fields of the external-key connection in a capture."""
    client = server = key_b = None
    for segment in wire:
        for option in segment.options:
            if subtype(option) != CAPABLE:
                continue
            if option[2] & 15 != 15 or not option[3] & WITH_KEY:
                raise Wrong(f"MP_CAPABLE without external key: {option.hex()}")
            if segment.flags & (SYN | ACK) == SYN:
                client, server = segment.source, segment.target
            elif segment.flags & SYN and (segment.target, segment.source) == (client, server):
                key_b = option[4:12]
            elif len(option) >= 20 and segment.source == client:
                if option[12:20] != key_b:
                    raise Wrong("the ACK has another key field than the SYN/ACK")
                return Connection(client, server, option[4:12], key_b)
    raise Wrong("no external-key handshake")


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def joins(wire, whole, key):
    """Each join that was completed: HMACs as they crossed the wire and as they should be."""
    # The token tells whom the SYN is for; the key fields begin with their owners' tokens.
    fields = {whole.key_b[:4]: (whole.key_a, whole.key_b), whole.key_a[:4]: (whole.key_b, whole.key_a)}
    asked, answered, done = {}, {}, {}
    for segment in wire:
        for option in segment.options:
            if subtype(option) != JOIN:
                continue
            path, back = (segment.source, segment.target), (segment.target, segment.source)
            if segment.flags & (SYN | ACK) == SYN:
                expect_length(option, 12)
                asked[path] = option[4:8], option[8:12]
            elif segment.flags & SYN:
                expect_length(option, 16)
                answered[back] = option[4:12], option[12:16]
            elif path in answered and path not in done:
                expect_length(option, 28)
                token, rand_a = asked[path]
                hmac_b, rand_b = answered[path]
                if option[4:12] != token + rand_a:
                    raise Wrong("the ACK repeats another token or random number")
                key_a, key_b = fields[token]
                done[path] = Join(
                    path,
                    hmac_b, mac(key, key_b, key_a, rand_b, rand_a)[:8],
                    option[12:28], mac(key, key_a, key_b, rand_a, rand_b)[:16],
                )
    return list(done.values())


def expect_length(option, length):
    if len(option) != length:
        raise Wrong(f"an MP_JOIN of {len(option)} bytes, not {length}: {option.hex()}")


# ---- what TLS exports --------------------------------------------------------------------------------------


def read_keylog(text):
    """{label: {client random: secret}}"""
    secrets = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and not line.startswith("#"):
            secrets.setdefault(words[0], {})[bytes.fromhex(words[1])] = bytes.fromhex(words[2])
    return secrets


def hellos(wire, whole):
    """Randoms of client and server, and the cipher suite, of the first subflow."""
    found = []
    for sender, kind in (whole.client, 1), (whole.server, 2):
        for segment in wire:
            data = segment.payload
            if segment.source == sender and data[:1] == b"\x16" and data[5:6] == bytes([kind]):
                found.append(data)
                break
        else:
            raise Wrong(f"no TLS hello from port {sender[1]}")
    client, server = found
    # Record and handshake headers, 9 bytes; version, 2; random, 32; session id, length first.
    suite_at = 44 + server[43]
    return client[11:43], server[11:43], struct.unpack_from(">H", server, suite_at)[0]


# Suites whose hash is SHA-384, of those that OpenSSL offers by default; SHA-256 is the others'.
SHA384 = {0x1302, 0xC02C, 0xC030, 0xC024, 0xC028, 0x009F, 0x009D}


def exported(secrets, client_random, server_random, suite):
    """The 32 bytes that both ends export under LABEL."""
    digest = hashlib.sha384 if suite in SHA384 else hashlib.sha256
    if client_random in secrets.get("EXPORTER_SECRET", {}):
        return export_13(digest, secrets["EXPORTER_SECRET"][client_random])
    master = secrets.get("CLIENT_RANDOM", {}).get(client_random)
    if not master:
        raise Wrong("the keylog is another connection's")
    return export_12(digest, master, client_random + server_random)


def export_13(digest, secret):
    """RFC 8446, sections 7.1 and 7.5, without context."""
    empty = digest(b"").digest()
    derived = expand_label(digest, secret, LABEL, empty, len(empty))
    return expand_label(digest, derived, b"exporter", empty, KEY_LENGTH)


def expand_label(digest, secret, label, context, length):
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + bytes([len(context)]) + context
    block = output = b""
    count = 0
    while len(output) < length:
        count += 1
        block = hmac.new(secret, block + info + bytes([count]), digest).digest()
        output += block
    return output[:length]


def export_12(digest, master, randoms):
    """RFC 5246, section 5, and RFC 5705, section 4, without context."""
    seed = LABEL + randoms
    block, output = seed, b""
    while len(output) < KEY_LENGTH:
        block = hmac.new(master, block, digest).digest()
        output += hmac.new(master, block + seed, digest).digest()
    return output[:KEY_LENGTH]


# ---- the whole proof ---------------------------------------------------------------------------------------


def prove(capture, keylog):
    """The connection, its key, its joins and its segments, or Wrong."""
    wire = list(segments(capture))
    whole = connection(wire)
    key = exported(read_keylog(keylog), *hellos(wire, whole))
    if key in capture:
        raise Wrong("the key crossed the wire")
    done = joins(wire, whole, key)
    if not done:
        raise Wrong("no join")
    for join in done:
        if join.hmac_b != join.expected_b or join.hmac_a != join.expected_a:
            raise Wrong(f"an HMAC that the key doesn't make: {join}")
    if any(join.hmac_a == forged.expected_a for join, forged in zip(done, joins(wire, whole, bytes(KEY_LENGTH)))):
        raise Wrong("any key makes these HMACs")
    return whole, key, done, wire


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with open(sys.argv[1], "rb") as capture, open(sys.argv[2], encoding="ascii") as keylog:
        whole, key, done, _ = prove(capture.read(), keylog.read())
    print(f"K_A {whole.key_a.hex()}, K_B {whole.key_b.hex()}")
    print(f"exported key, its SHA-256: {hashlib.sha256(key).hexdigest()[:16]}")
    for join in done:
        print(f"port {join.path[0][1]}: HMAC_B {join.hmac_b.hex()}, HMAC_A {join.hmac_a.hex()}: as computed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
