// SPDX-License-Identifier: GPL-2.0

//! Messages between host and guest.
//!
//! On the wire a message is a kind (one byte), the length of its body (four bytes, little endian) and the body.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// No body is longer; a length above it means that the two sides lost step.
const MAX_BODY: u32 = 16 << 20;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Guest: booted, waiting for [`Message::Run`].
    Ready,
    /// Host: run this command; the first of `argv` is searched for in `PATH`.
    Run {
        /// The command and its arguments, byte for byte.
        argv: Vec<OsString>,
        /// Its `TERM`.
        term: OsString,
    },
    /// Host: bytes for the command's standard input.
    Stdin(Vec<u8>),
    /// Host: end of the command's standard input.
    StdinEnd,
    /// Guest: bytes of the command's standard output.
    Stdout(Vec<u8>),
    /// Guest: bytes of the command's standard error.
    Stderr(Vec<u8>),
    /// Guest: the command ended, and the kernel log holds [`crate::END_OF_RUN`].
    Done(Outcome),
}

/// How a run ended, as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status as a shell gives it: 128 + N for signal N, 127 for a command that was not found.
    pub status: u8,
    /// `/proc/sys/kernel/tainted`.
    pub tainted: u64,
    /// kmemleak's report; empty without leaks or without kmemleak.
    pub leaks: String,
}

impl Message {
    /// Writes the message in one call to `to.write_all`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, body): (u8, &[u8]) = match self {
            Self::Ready => (0, &[]),
            Self::Run { argv, term } => (1, &join(term, argv)),
            Self::Stdin(bytes) => (2, bytes),
            Self::StdinEnd => (3, &[]),
            Self::Stdout(bytes) => (4, bytes),
            Self::Stderr(bytes) => (5, bytes),
            Self::Done(outcome) => (6, &outcome.to_bytes()),
        };
        let length = u32::try_from(body.len()).ok().filter(|n| *n <= MAX_BODY);
        let length = length.ok_or_else(|| invalid("message too long"))?;
        let mut frame = Vec::with_capacity(5 + body.len());
        frame.push(kind);
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(body);
        to.write_all(&frame)
    }

    /// Reads the next message; `None` at a clean end of the stream.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        if from.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        from.read_exact(&mut head[1..])?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if length > MAX_BODY {
            return Err(invalid("message length out of range"));
        }
        let mut body = vec![0; length as usize];
        from.read_exact(&mut body)?;
        Ok(Some(match head[0] {
            0 => Self::Ready,
            1 => {
                let mut words = split(&body).into_iter();
                let term = words.next().ok_or_else(|| invalid("no TERM"))?;
                let argv = words.collect();
                Self::Run { argv, term }
            }
            2 => Self::Stdin(body),
            3 => Self::StdinEnd,
            4 => Self::Stdout(body),
            5 => Self::Stderr(body),
            6 => Self::Done(Outcome::from_bytes(&body)?),
            _ => return Err(invalid("unknown kind of message")),
        }))
    }
}

impl Outcome {
    /// Status, taint (eight bytes, little endian), leaks.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.status];
        bytes.extend_from_slice(&self.tainted.to_le_bytes());
        bytes.extend_from_slice(self.leaks.as_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        let short = || invalid("outcome too short");
        let (&status, rest) = bytes.split_first().ok_or_else(short)?;
        let (tainted, leaks) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        Ok(Self {
            status,
            tainted: u64::from_le_bytes(*tainted),
            leaks: String::from_utf8_lossy(leaks).into_owned(),
        })
    }
}

/// Words, each ended by a NUL, which no argument can contain.
fn join(first: &OsStr, rest: &[OsString]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in std::iter::once(first).chain(rest.iter().map(OsString::as_os_str)) {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn split(bytes: &[u8]) -> Vec<OsString> {
    bytes
        .split_inclusive(|byte| *byte == 0)
        .map(|word| OsString::from_vec(word.strip_suffix(&[0]).unwrap_or(word).to_vec()))
        .collect()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through_the_wire(message: &Message) -> Message {
        let mut wire = Vec::new();
        message.write(&mut wire).unwrap();
        Message::read(&mut wire.as_slice()).unwrap().unwrap()
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let run = |argv: &[&[u8]]| Message::Run {
            argv: argv
                .iter()
                .map(|a| OsString::from_vec(a.to_vec()))
                .collect(),
            term: "xterm".into(),
        };
        for message in [
            Message::Ready,
            run(&[b"sh", b"-c", b"echo 'a  b' \"$1\"\n", b"", b"\xff\xfe"]),
            run(&[]),
            Message::Stdin(vec![0, 1, 2]),
            Message::StdinEnd,
            Message::Stdout(vec![b'x'; 100_000]),
            Message::Stderr(vec![]),
            Message::Done(Outcome {
                status: 137,
                tainted: 0x3000,
                leaks: "unreferenced object".into(),
            }),
        ] {
            assert_eq!(through_the_wire(&message), message);
        }
    }

    #[test]
    fn a_stream_that_ends_between_messages_ends_cleanly() {
        assert_eq!(Message::read(&mut [].as_slice()).unwrap(), None);
    }

    #[test]
    fn a_stream_that_ends_inside_a_message_is_an_error() {
        let mut wire = Vec::new();
        Message::Stdout(vec![1, 2, 3]).write(&mut wire).unwrap();
        for cut in 1..wire.len() {
            assert!(Message::read(&mut &wire[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(Message::read(&mut [9, 0, 0, 0, 0].as_slice()).is_err());
        assert!(Message::read(&mut [4, 255, 255, 255, 255].as_slice()).is_err());
        assert!(Message::read(&mut [6, 2, 0, 0, 0, 1, 2].as_slice()).is_err());
    }
}
